#define _GNU_SOURCE
#include "left.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "names.h"

/* Whether a word is this flag: one dash or more, its name, and perhaps its value after `=`. */
static bool is_flag(const char *word, const char *name)
{
	word += strspn(word, "-");
	size_t length = strcspn(word, "=");
	return strlen(name) == length && !strncmp(word, name, length);
}

static bool has_value(const char *word)
{
	static const char *const names[] = {"namespace", "address", "publish-binary", "id", "bundle"};
	for (size_t at = 0; at < sizeof names / sizeof *names; at++)
		if (is_flag(word, names[at]))
			return true;
	return false;
}

/* The bundle of a `delete`; NULL for a command line of any other form. */
static const char *bundle_of(char **words)
{
	const char *bundle = "";
	char **word = words + 1;
	for (; *word && **word == '-'; word++) {
		if (!strcmp(*word, "-debug"))
			continue;
		if (!has_value(*word))
			return NULL;
		const char *flag = *word, *value = strchr(flag, '=');
		if (value)
			value++;
		else if (!(value = *++word))
			return NULL;
		if (is_flag(flag, "bundle"))
			bundle = value;
	}
	if (!*word || strcmp(*word, "delete") || word[1])
		return NULL;
	return *bundle ? bundle : ".";
}

/* By the system call: the C library's lstat() is a symbol of 2.33. */
static bool is_gone(const char *path)
{
	struct stat found;
	return syscall(SYS_newfstatat, AT_FDCWD, path, &found, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
}

static bool join(char *path, const char *folder, const char *name)
{
	int size = snprintf(path, PATH_MAX, "%s/%s", folder, name);
	return size > 0 && size < PATH_MAX;
}

/* Read the path of the shim's socket; false unless it is a plain one. */
static bool read_socket(const char *file, char *path)
{
	char text[PATH_MAX];
	int fd = open(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t length = read(fd, text, sizeof text - 1);
	close(fd);
	if (length <= 0 || length == sizeof text - 1)
		return false;
	text[length] = '\0';
	for (ssize_t at = 0; at < length; at++)
		if (text[at] < '!' || text[at] > '~')
			return false;
	size_t scheme = strlen(ADDRESS_SCHEME);
	if (strncmp(text, ADDRESS_SCHEME "/", scheme + 1))
		return false;
	strcpy(path, text + scheme);
	return true;
}

bool nothing_left(char **words)
{
	char path[PATH_MAX], socket[PATH_MAX];
	const char *bundle = bundle_of(words);
	return bundle && join(path, bundle, ADDRESS_FILE) && read_socket(path, socket) && is_gone(socket) &&
	       join(path, bundle, BUNDLE_LINK) && is_gone(path);
}
