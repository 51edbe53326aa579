#define _GNU_SOURCE
#include "scan.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char device_prefix[] = "/dev/nvidia";
enum { PATH_SIZE = 400, TCP_MAX = 1024 };

static int number_of(const char *name)
{
	long number = 0;
	for (; *name >= '0' && *name <= '9' && number < 1 << 22; name++)
		number = number * 10 + (*name - '0');
	return *name ? 0 : (int)number;
}

/* Read at most `size` - 1 bytes of a file, ended by NUL; return how many. */
static size_t read_start(const char *path, char *text, size_t size)
{
	size_t length = 0;
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file >= 0) {
		ssize_t count;
		while (length < size - 1 &&
		       (count = read(file, text + length, size - 1 - length)) > 0)
			length += (size_t)count;
		close(file);
	}
	text[length] = '\0';
	return length;
}

static void read_line(const char *path, char *text, size_t size)
{
	read_start(path, text, size);
	text[strcspn(text, "\n")] = '\0';
}

static bool holds_open(int pid, char *device, size_t size)
{
	char folder[64], path[PATH_SIZE], target[64];
	snprintf(folder, sizeof folder, "/proc/%d/fd", pid);
	DIR *entries = opendir(folder);
	bool found = false;
	for (struct dirent *entry; entries && !found && (entry = readdir(entries));) {
		snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
		ssize_t length = readlink(path, target, sizeof target - 1);
		if (length <= 0)
			continue;
		target[length] = '\0';
		found = strncmp(target, device_prefix, sizeof device_prefix - 1) == 0;
	}
	if (found)
		snprintf(device, size, "%s", target);
	if (entries)
		closedir(entries);
	return found;
}

static bool maps(int pid)
{
	enum { KEEP = sizeof device_prefix, CHUNK = 1 << 16 };
	static char text[KEEP + CHUNK + 1];
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/maps", pid);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	bool found = false;
	size_t kept = 0;
	for (ssize_t count; file >= 0 && !found && (count = read(file, text + kept, CHUNK)) > 0;) {
		size_t length = kept + (size_t)count;
		found = memmem(text, length, device_prefix, sizeof device_prefix - 1) != NULL;
		kept = length < KEEP ? length : KEEP; /* a path may span two reads */
		memmove(text, text + length - kept, kept);
	}
	if (file >= 0)
		close(file);
	return found;
}

/* From 550 on the driver names its thread `cuda` and eleven hexadecimal digits. */
static bool is_driver_name(const char *name)
{
	return strlen(name) == 15 && strncmp(name, "cuda", 4) == 0 &&
	       strspn(name + 4, "0123456789abcdef") == 11;
}

static bool has_driver_thread(int pid)
{
	char folder[64], path[PATH_SIZE], name[64];
	snprintf(folder, sizeof folder, "/proc/%d/task", pid);
	DIR *entries = opendir(folder);
	bool found = false;
	for (struct dirent *entry; entries && !found && (entry = readdir(entries));) {
		snprintf(path, sizeof path, "%s/%s/comm", folder, entry->d_name);
		read_line(path, name, sizeof name);
		found = is_driver_name(name);
	}
	if (entries)
		closedir(entries);
	return found;
}

static void look_at(int pid, struct scan *found)
{
	struct holder holder = {.pid = pid};
	char path[64];
	if (!holds_open(pid, holder.device, sizeof holder.device)) {
		if (!maps(pid))
			return;
		snprintf(holder.device, sizeof holder.device, "mapping");
	}
	if (found->count == HOLDERS_MAX) {
		found->too_many = true;
		return;
	}
	snprintf(path, sizeof path, "/proc/%d/comm", pid);
	read_line(path, holder.comm, sizeof holder.comm);
	holder.driver_thread = has_driver_thread(pid);
	found->holders[found->count++] = holder;
}

void scan(struct scan *found, bool (*is_known)(int pid))
{
	DIR *entries = opendir("/proc");
	*found = (struct scan){.holders = calloc(HOLDERS_MAX, sizeof *found->holders)};
	if (!found->holders)
		abort();
	for (struct dirent *entry; entries && (entry = readdir(entries));) {
		int pid = number_of(entry->d_name);
		if (pid > 0 && pid != getpid() && !(is_known && is_known(pid)))
			look_at(pid, found);
	}
	if (entries)
		closedir(entries);
}

bool is_alive(int pid)
{
	char path[64], text[512];
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	read_start(path, text, sizeof text);
	char *end = strrchr(text, ')'); /* the name before it may contain anything */
	return end && end[1] == ' ' && end[2] && end[2] != 'Z' && end[2] != 'X';
}

/* Return the start of the next word of a line, and end that word with NUL. */
static char *word(char **rest)
{
	char *begin = *rest + strspn(*rest, " ");
	char *end = begin + strcspn(begin, " \n");
	*rest = *end ? end + 1 : end;
	*end = '\0';
	return begin;
}

/* Fields of a line: number, local address, remote address, state. */
static bool report_established(char *line, void (*found)(const char *remote))
{
	word(&line);
	word(&line);
	const char *remote = word(&line);
	if (strcmp(word(&line), "01") != 0)
		return false;
	found(remote);
	return true;
}

static void tcp_of(const char *path, void (*found)(const char *remote))
{
	enum { SIZE = 1 << 18 };
	static char text[SIZE];
	read_start(path, text, sizeof text);
	int count = 0;
	for (char *line = text, *next; line && count < TCP_MAX; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		count += report_established(line, found);
	}
}

void scan_tcp(void (*found)(const char *remote))
{
	tcp_of("/proc/net/tcp", found);
	tcp_of("/proc/net/tcp6", found);
}
