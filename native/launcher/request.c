#define _GNU_SOURCE
#include "request.h"

#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "names.h"

enum { REQUEST_LIMIT = 16 << 20 };

extern char **environ;

static bool add_list(struct buffer *out, char **texts)
{
	unsigned long count = 0;
	while (texts[count])
		count++;
	bool all = buffer_number(out, count);
	for (; all && *texts; texts++)
		all = buffer_text(out, *texts);
	return all;
}

/* Namespaces that the fork server must share, or it would work on other files and processes. */
static bool add_namespace(struct buffer *out, const char *path)
{
	char name[64];
	ssize_t length = readlink(path, name, sizeof name - 1);
	if (length <= 0)
		return false;
	name[length] = '\0';
	return buffer_text(out, name);
}

static bool add_umask(struct buffer *out)
{
	mode_t mask = umask(0);
	umask(mask);
	return buffer_number(out, mask);
}

bool request_write(struct buffer *out, char **words, const struct buffer *given)
{
	char cwd[PATH_MAX];
	char length[4] = {0};
	size_t head = strlen(REQUEST_MARK) + sizeof length;
	bool all = getcwd(cwd, sizeof cwd) && cwd[0] == '/' &&
		   buffer_add(out, REQUEST_MARK, strlen(REQUEST_MARK)) &&
		   buffer_add(out, length, sizeof length) && add_list(out, words) &&
		   buffer_text(out, cwd) && add_list(out, environ) && add_umask(out) &&
		   add_namespace(out, "/proc/self/ns/mnt") && add_namespace(out, "/proc/self/ns/pid") &&
		   buffer_add(out, given->data, given->length);
	if (!all || out->length - head > REQUEST_LIMIT)
		return false;
	uint32_t size = (uint32_t)(out->length - head);
	for (unsigned at = 0; at < sizeof length; at++)
		out->data[head - 1 - at] = (char)(size >> 8 * at & 0xff);
	return true;
}
