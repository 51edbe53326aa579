/* Processes that hold nvidia devices in this container, read from /proc, as shim/cuda/scan.sh does. */
#ifndef CRYO_SCAN_H
#define CRYO_SCAN_H

#include <stdbool.h>
#include <stddef.h>

enum { HOLDERS_MAX = 4096, PIDS_MAX = 256 };

struct holder {
	int pid;
	char comm[64];
	char device[64]; /* one that it holds open, or "mapping" */
	bool driver_thread;
};

struct scan {
	struct holder *holders;
	size_t count;
	bool too_many;
};

/* Scan every process but this one, and those for which `is_known`, unless NULL, returns true. */
void scan(struct scan *found, bool (*is_known)(int pid));

/* Whether a process exists and is not a zombie. */
bool is_alive(int pid);

/* Call `found` with the remote address of each established TCP connection, as /proc/net/tcp has it. */
void scan_tcp(void (*found)(const char *remote));

#endif
