/* Finds the script in Python, beside this program or else on PATH, and names the link to the fork
 * server.
 *
 * The link's name stands for everything that decides which code runs: both programs, as they were
 * installed, and the variables that Python or the shim read. An installation that is replaced has
 * another link, so that the first start after that is made by Python, which sets it.
 */

#define _GNU_SOURCE
#include "installation.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "names.h"

extern char **environ;

/* FNV-1a. The names come from this host's administrator, so collisions are accidents. */
static uint64_t mixed(uint64_t hash, const void *data, size_t length)
{
	const unsigned char *byte = data;
	for (size_t at = 0; at < length; at++)
		hash = (hash ^ byte[at]) * UINT64_C(0x100000001b3);
	return hash;
}

static uint64_t hash_of(const char *text)
{
	return mixed(UINT64_C(0xcbf29ce484222325), text, strlen(text));
}

/* By the system call: the C library's stat() is a symbol of 2.33. */
static bool look(const char *path, struct stat *found)
{
	return syscall(SYS_newfstatat, AT_FDCWD, path, found, 0) == 0;
}

static bool mix_file(uint64_t *hash, const char *path)
{
	struct stat found;
	if (!look(path, &found))
		return false;
	int64_t parts[] = {
		(int64_t)found.st_dev,	(int64_t)found.st_ino,	     (int64_t)found.st_size,
		found.st_mtim.tv_sec, found.st_mtim.tv_nsec, found.st_ctim.tv_sec, found.st_ctim.tv_nsec,
	};
	*hash = mixed(*hash, path, strlen(path) + 1);
	*hash = mixed(*hash, parts, sizeof parts);
	return true;
}

static bool decides(const char *variable)
{
	return !strncmp(variable, "PYTHON", 6) || !strncmp(variable, "CRYO_CONFIG=", 12);
}

static bool usable(const char *folder, size_t length, char *script)
{
	int size = snprintf(script, PATH_MAX, "%.*s/%s", (int)length, folder, SCRIPT);
	struct stat found;
	return size > 0 && size < PATH_MAX && access(script, X_OK) == 0 && look(script, &found) &&
	       S_ISREG(found.st_mode);
}

static bool on_path(char *script)
{
	const char *rest = getenv("PATH");
	while (rest && *rest) {
		size_t length = strcspn(rest, ":");
		if (length && length < PATH_MAX && usable(rest, length, script))
			return true;
		rest += length + (rest[length] == ':');
	}
	return false;
}

bool installation_find(struct installation *found)
{
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	found->link[0] = '\0';
	if (length <= 0) {
		return on_path(found->script);
	}
	self[length] = '\0';
	const char *slash = strrchr(self, '/');
	bool beside = slash && usable(self, (size_t)(slash - self), found->script);
	if (!beside && !on_path(found->script))
		return false;
	uint64_t hash = hash_of("1");
	if (!mix_file(&hash, self) || !mix_file(&hash, found->script))
		return true;
	/* A sum: the order of variables has no meaning. */
	for (char **variable = environ; *variable; variable++)
		if (decides(*variable))
			hash += hash_of(*variable);
	snprintf(found->link, sizeof found->link, LINK_PREFIX "%016llx", (unsigned long long)hash);
	return true;
}
