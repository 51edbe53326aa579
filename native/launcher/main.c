/* containerd-shim-cryo-v1: lets the fork server do what containerd asks for, and prints its answer.
 *
 * containerd waits for `start`, `delete` and `-info`, and an interpreter takes longer to start than
 * they take in a process that has loaded everything. Where there is no fork server of this code, and
 * whenever anything else is not as expected, the same program in Python does it instead. It may then
 * do again what the fork server has begun: all three may be repeated.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "call.h"
#include "installation.h"
#include "left.h"
#include "names.h"
#include "request.h"

/* Tests have shorter ones. */
#ifndef START_MS
#define START_MS 25000
#define DELETE_MS 10000
#endif

enum { FAILED = 1, CANNOT_RUN = 126, NOT_FOUND = 127 };

/* containerd allows five seconds for a delete; Python must have a share of it. */
static const struct patience to_start = {5000, START_MS};
static const struct patience to_delete = {1500, DELETE_MS};

/* Open a closed standard stream, so that no socket gets its number. */
static void open_streams(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		/* By the system call: fcntl() is a symbol of 2.28. */
		bool closed = syscall(SYS_fcntl, fd, F_GETFD, 0) < 0 && errno == EBADF;
		if (closed && open("/dev/null", O_RDWR) != fd)
			_exit(CANNOT_RUN);
	}
}

static bool has_info(char **words)
{
	for (char **word = words + 1; *word; word++)
		if (!strcmp(*word, "-info") || !strcmp(*word, "--info"))
			return true;
	return false;
}

/* Give Python the stdin that was already read. */
static bool give_back(const struct buffer *given)
{
	int fd = (int)syscall(SYS_memfd_create, "stdin", 1U /* MFD_CLOEXEC */);
	if (fd < 0 || !write_all(fd, given->data, given->length) || lseek(fd, 0, SEEK_SET) != 0)
		return false;
	return dup2(fd, STDIN_FILENO) == STDIN_FILENO;
}

static int run_python(const struct installation *found, char **words, const struct buffer *given)
{
	if (given->length && !give_back(given)) {
		perror("containerd-shim-cryo-v1: stdin");
		return CANNOT_RUN;
	}
	if (setenv(LINK_VARIABLE, found->link, 1) == 0)
		execv(found->script, words);
	fprintf(stderr, "containerd-shim-cryo-v1: %s: %s\n", found->script, strerror(errno));
	return CANNOT_RUN;
}

static int print(const struct answer *answer)
{
	signal(SIGPIPE, SIG_IGN);
	bool all = write_all(STDOUT_FILENO, answer->out, answer->out_length);
	all = write_all(STDERR_FILENO, answer->err, answer->err_length) && all;
	return all ? answer->status : FAILED;
}

/* Ask the fork server; false if Python must do it. */
static bool asked(const struct installation *found, char **words, const struct buffer *given,
		  struct patience patience, struct answer *answer)
{
	static struct buffer request, kept;
	char path[sizeof RUN_FOLDER + sizeof found->link];
	snprintf(path, sizeof path, "%s/%s", RUN_FOLDER, found->link);
	return found->link[0] && access(path, F_OK) == 0 && request_write(&request, words, given) &&
	       call(path, &request, patience, &kept, answer);
}

int main(int count, char **words)
{
	static struct installation found;
	static struct buffer given;
	struct answer answer;
	open_streams();
	unsetenv(LINK_VARIABLE);
	if (!installation_find(&found)) {
		fputs("containerd-shim-cryo-v1: " SCRIPT " is neither beside it nor on PATH: link to the "
		      "installed program instead of copying it\n", stderr);
		return NOT_FOUND;
	}
	bool start = count > 1 && !strcmp(words[count - 1], "start");
	bool delete = count > 1 && !strcmp(words[count - 1], "delete");
	bool info = count > 1 && has_info(words);
	if (!start && !delete && !info)
		return run_python(&found, words, &given);
	if (delete && nothing_left(words))
		return 0;
	/* A stdin that cannot be read is empty, as it is for Python. */
	if (start || info)
		(void)buffer_read(&given, STDIN_FILENO, STDIN_LIMIT);
	if (asked(&found, words, &given, start ? to_start : to_delete, &answer))
		return print(&answer);
	return run_python(&found, words, &given);
}
