#define _GNU_SOURCE
#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "map.h"

enum { NUMBER_MAX = 1000 * 1000 * 1000, PID_MAX = 1 << 22 };

static const char text[] =
	"cryo-cuda: checkpoint and restore the GPU state of processes, by the driver's own calls.\n"
	"As cuda-checkpoint:\n"
	"  --help|-h                             this text\n"
	"  --toggle --pid|-p PID                 suspend a running process or resume a suspended one\n"
	"  --get-state --pid|-p PID              running, locked, checkpointed or failed\n"
	"  --get-restore-tid --pid|-p PID        the thread that restores\n"
	"  --action|-a lock|checkpoint|restore|unlock --pid|-p PID\n"
	"  --timeout|-t MS                       give up locking after that long\n"
	"  --device-map|-d OLD=NEW,...           restore on other GPUs, by UUID\n"
	"For many processes at once, one JSON object a line:\n"
	"  --batch find                          who has CUDA state here, and in which state it is\n"
	"  --batch states|freeze|thaw --pids PID,...\n"
	"  --detect-ms MS, --step-ms MS          deadlines for a look, and for each kind of move\n";

void usage(int file)
{
	ssize_t sent = write(file, text, sizeof text - 1);
	(void)sent;
}

static bool wrong(const char *format, const char *what)
{
	char said[256];
	/* The formats are literals below. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	int length = snprintf(said, sizeof said, format, what);
#pragma GCC diagnostic pop
	if (length >= (int)sizeof said)
		length = sizeof said - 1;
	dprintf(STDERR_FILENO, "cryo-cuda: %.*s\n", length, said);
	usage(STDERR_FILENO);
	return false;
}

/* Parse digits up to `end`; -1 if there is anything else, or the number is too large. */
static long long number(const char *word, char end)
{
	long long value = 0;
	if (*word < '0' || *word > '9')
		return -1;
	for (; *word >= '0' && *word <= '9'; word++) {
		value = value * 10 + (*word - '0');
		if (value > NUMBER_MAX)
			return -1;
	}
	return *word == '\0' || *word == end ? value : -1;
}

static bool read_ms(const char *word, long long *ms)
{
	*ms = number(word, '\0');
	return *ms >= 0 || wrong("'%s' is no number of milliseconds", word);
}

static bool read_pids(const char *word, struct options *options)
{
	while (options->count < PIDS_MAX) {
		long long pid = number(word, ',');
		if (pid <= 0 || pid > PID_MAX)
			break;
		options->pids[options->count++] = (int)pid;
		word = strchr(word, ',');
		if (!word)
			return true;
		word++;
	}
	return wrong("'%s' is no list of at most 256 process numbers", word);
}

static bool read_action(const char *word, struct options *options)
{
	static const char *const names[] = {"lock", "checkpoint", "restore", "unlock"};
	for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
		if (strcmp(word, names[at]) != 0)
			continue;
		if (options->verb == NOTHING) {
			options->verb = ONE;
			options->action = LOCK + (enum action)at;
		}
		return true;
	}
	return wrong("an action is needed", "");
}

static bool read_batch(const char *word, struct options *options)
{
	static const char *const names[] = {"find", "states", "freeze", "thaw"};
	for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
		if (strcmp(word, names[at]) == 0) {
			options->verb = FIND + (enum verb)at;
			return true;
		}
	}
	return wrong("there is no batch '%s'", word);
}

static bool read_map(const char *word, struct options *options)
{
	options->has_map = map_parse(word, &options->map);
	return options->has_map || wrong("'%s' is no device map", word);
}

static bool is(const char *word, const char *full, const char *brief)
{
	return strcmp(word, full) == 0 || (brief && strcmp(word, brief) == 0);
}

/* Parse an option without an argument; false if it is not one. */
static bool alone(const char *word, struct options *options)
{
	if (is(word, "--help", "-h"))
		options->verb = HELP;
	else if (options->verb == HELP)
		return is(word, "--toggle", NULL) || is(word, "--get-state", NULL) ||
		       is(word, "--get-restore-tid", NULL);
	else if (is(word, "--toggle", NULL))
		options->verb = TOGGLE;
	else if (is(word, "--get-state", NULL) || is(word, "--get-restore-tid", NULL)) {
		options->action = is(word, "--get-state", NULL) ? GET_STATE : GET_TID;
		options->verb = options->verb == TOGGLE ? TOGGLE : ONE;
	} else
		return false;
	return true;
}

static bool known(const char *word)
{
	static const char *const names[] = {
		"--pid",     "-p", "--action", "-a",      "--timeout",   "-t",	     "--device-map",
		"-d",        "--batch",        "--pids",  "--detect-ms", "--step-ms",
	};
	for (size_t at = 0; at < sizeof names / sizeof *names; at++)
		if (strcmp(word, names[at]) == 0)
			return true;
	return false;
}

static bool with_value(const char *word, const char *value, struct options *options)
{
	if (is(word, "--pid", "-p")) {
		long long pid = number(value, '\0');
		options->pid = pid > 0 && pid <= PID_MAX ? (int)pid : 0;
		return true;
	}
	if (is(word, "--action", "-a"))
		return read_action(value, options);
	if (is(word, "--timeout", "-t"))
		return read_ms(value, &options->lock_ms);
	if (is(word, "--device-map", "-d"))
		return read_map(value, options);
	if (is(word, "--batch", NULL))
		return read_batch(value, options);
	if (is(word, "--pids", NULL))
		return read_pids(value, options);
	return read_ms(value, is(word, "--step-ms", NULL) ? &options->step_ms : &options->detect_ms);
}

static bool complete(const struct options *options)
{
	bool one = options->verb == ONE || options->verb == TOGGLE || options->verb == NOTHING;
	if (one && !options->pid)
		return wrong("a --pid is needed", "");
	if (options->verb == NOTHING)
		return wrong("an action is needed", "");
	if (options->verb > FIND && !options->count)
		return wrong("--pids are needed", "");
	return true;
}

/* runsc's own engine passes a toggle no options but the environment of the container's spec, so its
 * deadlines are read from there. A device map is not: it would still be set when the container is
 * thawed after its next save, and name GPUs that it no longer uses. */
static void from_environment(struct options *options)
{
	const char *lock = getenv("CRYO_CUDA_LOCK_MS");
	const char *limit = getenv("CRYO_CUDA_STEP_MS");
	if (options->lock_ms < 0 && lock)
		options->lock_ms = number(lock, '\0');
	if (options->step_ms < 0 && limit)
		options->step_ms = number(limit, '\0');
}

bool options_read(int count, char **words, struct options *options)
{
	*options = (struct options){.lock_ms = -1, .step_ms = -1, .detect_ms = -1};
	for (int at = 1; at < count; at++) {
		if (alone(words[at], options))
			continue;
		if (!known(words[at]))
			return wrong("unrecognized option '%s'", words[at]);
		if (at + 1 == count)
			return wrong("option '%s' requires an argument", words[at]);
		if (!with_value(words[at], words[at + 1], options))
			return false;
		at++;
	}
	if (options->verb == TOGGLE)
		from_environment(options);
	return complete(options);
}
