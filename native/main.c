/* cryo-cuda: moves the GPU state of a container's processes, from inside it. See options.c. */

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "batch.h"
#include "clock.h"
#include "options.h"
#include "single.h"

enum { WRONG = 1 };

static int one_process(const struct options *options)
{
	struct cuda cuda;
	const char *why;
	long long limit_ms = options->detect_ms > 0 ? now_ms() + options->detect_ms : 0;
	int status = begin_driver(&cuda, limit_ms, &why);
	if (status) {
		dprintf(STDERR_FILENO, "cryo-cuda: %s\n", why);
		return status;
	}
	return single(&cuda, options);
}

static int run(struct options *options)
{
	if (options->verb == HELP) {
		usage(STDOUT_FILENO);
		return 0;
	}
	return options->verb >= FIND ? batch(options) : one_process(options);
}

int main(int count, char **words)
{
	static struct options options;
	int status = options_read(count, words, &options) ? run(&options) : WRONG;
	/* Not exit(): a thread that hangs in the driver must not be waited for. */
	_exit(status);
}
