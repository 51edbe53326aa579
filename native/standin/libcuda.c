/* A libcuda.so.1 for the simulated GPU: the calls that cryo-cuda makes, and no others.
 *
 * It speaks to the simulated processes as shim/simgpu/guest/cuda_checkpoint.py does: a question to
 * the driver thread of the process, before it one to the device whether this call is to go wrong,
 * unless CRYO_SIMGPU_FAULTS is `none`.
 * The paths can be moved by CRYO_SIMGPU_RUN and CRYO_SIMGPU_DEVICE, for tests without a sandbox.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { TEXT = 512, INVALID = 1, NOT_INITIALIZED = 3, NO_DEVICE = 100, OPERATING_SYSTEM = 304,
       OTHER = 10000, OTHERS = 64, FRAME_MAX = 4096 };

struct result {
	int code;
	const char *name;
	const char *text;
};

/* As the driver has them: cuda.h of CUDA 12.8. */
static const struct result results[] = {
	{0, "CUDA_SUCCESS", "no error"},
	{INVALID, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
	{2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
	{NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
	{NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
	{OPERATING_SYSTEM, "CUDA_ERROR_OPERATING_SYSTEM",
	 "OS call failed or operation not supported on this OS"},
	{401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
	{600, "CUDA_ERROR_NOT_READY", "device not ready"},
	{719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
	{801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
	{999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

enum { RESULTS = sizeof results / sizeof *results };

/* Extra results for tests that no driver returns; each gets a number of its own. */
static char others[OTHERS][TEXT];
static int other_count;
static int device_file = -1;

#define EXPORT __attribute__((visibility("default")))

EXPORT int cuInit(unsigned flags);
EXPORT int cuDriverGetVersion(int *version);
EXPORT int cuGetErrorName(int error, const char **name);
EXPORT int cuGetErrorString(int error, const char **text);
EXPORT int cuCheckpointProcessLock(int pid, const unsigned *args);
EXPORT int cuCheckpointProcessCheckpoint(int pid, const void *args);
EXPORT int cuCheckpointProcessRestore(int pid, const void *args);
EXPORT int cuCheckpointProcessUnlock(int pid, const void *args);
EXPORT int cuCheckpointProcessGetState(int pid, int *state);
EXPORT int cuCheckpointProcessGetRestoreThreadId(int pid, int *tid);

static int code_of(const char *text)
{
	for (int at = 0; at < RESULTS; at++)
		if (strcmp(results[at].text, text) == 0)
			return results[at].code;
	int mine = __atomic_fetch_add(&other_count, 1, __ATOMIC_SEQ_CST) % OTHERS;
	snprintf(others[mine], TEXT, "%s", text);
	return OTHER + mine;
}

static const struct result *find(int code)
{
	for (int at = 0; at < RESULTS; at++)
		if (results[at].code == code)
			return &results[at];
	return NULL;
}

static const char *place(const char *variable, const char *usual)
{
	const char *given = getenv(variable);
	return given && *given ? given : usual;
}

/* -- the sockets ------------------------------------------------------------------------------- */

static int connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	if (connection >= 0 && connect(connection, (struct sockaddr *)&address, sizeof address)) {
		close(connection);
		return -1;
	}
	return connection;
}

static int send_all(int connection, const char *data, size_t size)
{
	while (size) {
		ssize_t sent = send(connection, data, size, MSG_NOSIGNAL);
		if (sent <= 0)
			return -1;
		data += sent;
		size -= (size_t)sent;
	}
	return 0;
}

static int receive(int connection, char *data, size_t size)
{
	while (size) {
		ssize_t count = recv(connection, data, size, 0);
		if (count <= 0)
			return -1;
		data += count;
		size -= (size_t)count;
	}
	return 0;
}

/* -- the faults -------------------------------------------------------------------------------- */

struct fault {
	char kind[32];
	double seconds;
	char message[TEXT];
};

/* How the tool was called, for the simulation's log: by --toggle, in a batch, or plainly. */
static const char *via(void)
{
	static char words[FRAME_MAX];
	int file = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t length = file < 0 ? 0 : read(file, words, sizeof words - 1);
	if (file >= 0)
		close(file);
	for (ssize_t at = 0; at < length; at += (ssize_t)strlen(words + at) + 1) {
		if (strcmp(words + at, "--toggle") == 0)
			return "toggle";
		if (strcmp(words + at, "--batch") == 0)
			return "batch";
	}
	return "";
}

/* The frame of shim/simgpu/guest/frames.py: four bytes of length, a JSON header, the payload. */
static int ask_device(int connection, const char *action, int pid, char *answer)
{
	char header[TEXT];
	unsigned char size[4];
	int length = snprintf(header, sizeof header,
			      "{\"op\":\"tool\",\"action\":\"%s\",\"pid\":%d,\"via\":\"%s\"}",
			      action, pid, via());
	size[0] = size[1] = 0;
	size[2] = (unsigned char)(length >> 8);
	size[3] = (unsigned char)length;
	if (send_all(connection, (char *)size, 4) || send_all(connection, header, (size_t)length) ||
	    receive(connection, (char *)size, 4))
		return -1;
	size_t count = (size_t)size[2] << 8 | size[3];
	if (size[0] || size[1] || count >= TEXT || receive(connection, header, count))
		return -1;
	header[count] = '\0';
	const char *last = strrchr(header, ':'); /* "size" comes last */
	int payload = last ? atoi(last + 1) : 0;
	if (payload <= 0 || payload >= FRAME_MAX || receive(connection, answer, (size_t)payload))
		return -1;
	answer[payload] = '\0';
	return 0;
}

/* What this call is to suffer; an empty kind is nothing. */
static struct fault fault_for(const char *action, int pid)
{
	struct fault fault = {{0}, 0, {0}};
	char answer[FRAME_MAX];
	if (strcmp(place("CRYO_SIMGPU_FAULTS", ""), "none") == 0)
		return fault;
	int connection =
		connect_to(place("CRYO_SIMGPU_DEVICE", "/dev/simgpu/device/device.sock"));
	if (connection < 0)
		return fault;
	if (ask_device(connection, action, pid, answer) == 0) {
		char *seconds = strchr(answer, ' ');
		char *message = seconds ? strchr(seconds + 1, ' ') : NULL;
		if (message) {
			*seconds = *message = '\0';
			snprintf(fault.kind, sizeof fault.kind, "%.31s", answer);
			fault.seconds = strtod(seconds + 1, NULL);
			snprintf(fault.message, sizeof fault.message, "%.500s", message + 1);
		}
	}
	close(connection);
	return fault;
}

static int is(const struct fault *fault, const char *kind)
{
	return strcmp(fault->kind, kind) == 0;
}

static void rest(double seconds)
{
	usleep((useconds_t)(seconds * 1e6));
}

static int suffer(const struct fault *fault)
{
	if (strncmp(fault->kind, "hang", 4) == 0) {
		if (fault->seconds <= 0)
			for (;;)
				pause();
		rest(fault->seconds);
	}
	return code_of(fault->message);
}

/* -- the driver thread of a process ------------------------------------------------------------ */

static int ask_process(int pid, const char *request, char *answer)
{
	char path[TEXT];
	size_t length = 0;
	snprintf(path, sizeof path, "%s/cuda.%d", place("CRYO_SIMGPU_RUN", "/tmp/.simgpu"), pid);
	int connection = connect_to(path);
	if (connection < 0)
		return NOT_INITIALIZED;
	if (send_all(connection, request, strlen(request)) == 0) {
		ssize_t count;
		while (length < TEXT - 1 &&
		       (count = recv(connection, answer + length, TEXT - 1 - length, 0)) > 0)
			length += (size_t)count;
	}
	close(connection);
	answer[length] = '\0';
	answer[strcspn(answer, "\n")] = '\0';
	if (strncmp(answer, "ok ", 3) == 0 || strcmp(answer, "ok") == 0) {
		memmove(answer, answer + 2, strlen(answer + 2) + 1);
		return 0;
	}
	if (strncmp(answer, "error ", 6) == 0)
		return code_of(answer + 6);
	return length ? 719 : NOT_INITIALIZED;
}

static int call(const char *action, int pid, const char *words, char *answer)
{
	char request[2 * TEXT];
	struct fault fault = fault_for(action, pid);
	answer[0] = '\0';
	if (is(&fault, "fail") || is(&fault, "hang"))
		return suffer(&fault);
	if (is(&fault, "wrong_state"))
		return 0;
	if (is(&fault, "slow"))
		rest(fault.seconds);
	if (is(&fault, "die"))
		kill(pid, SIGKILL);
	int length = snprintf(request, sizeof request, "%s", words);
	if (is(&fault, "oom") || is(&fault, "busy"))
		length += snprintf(request + length, sizeof request - (size_t)length, " %s=%g",
				   fault.kind, fault.seconds);
	snprintf(request + length, sizeof request - (size_t)length, "\n");
	int code = ask_process(pid, request, answer);
	if (is(&fault, "hang_after") || is(&fault, "fail_after"))
		return suffer(&fault);
	return code;
}

/* -- what cryo-cuda calls ---------------------------------------------------------------------- */

int cuInit(unsigned flags)
{
	const char *node = place("CRYO_SIMGPU_NODE", "/dev/nvidiactl");
	struct fault fault = fault_for("init", getpid());
	if (flags)
		return INVALID;
	if (is(&fault, "fail") || is(&fault, "hang"))
		return suffer(&fault);
	if (is(&fault, "slow"))
		rest(fault.seconds);
	/* The driver keeps it open: a tool that stayed would be in the image. */
	device_file = open(node, O_RDWR | O_CLOEXEC);
	return device_file < 0 ? NO_DEVICE : 0;
}

int cuDriverGetVersion(int *version)
{
	*version = 12080;
	return 0;
}

int cuGetErrorName(int error, const char **name)
{
	const struct result *found = find(error);
	*name = found ? found->name : NULL;
	return found ? 0 : INVALID;
}

int cuGetErrorString(int error, const char **text)
{
	const struct result *found = find(error);
	*text = found ? found->text : NULL;
	if (!found && error >= OTHER && error < OTHER + OTHERS)
		*text = others[error - OTHER];
	return *text ? 0 : INVALID;
}

int cuCheckpointProcessLock(int pid, const unsigned *args)
{
	char words[TEXT], answer[TEXT];
	snprintf(words, sizeof words, "lock timeout=%u", args ? args[0] : 0);
	return device_file < 0 ? NOT_INITIALIZED : call("lock", pid, words, answer);
}

int cuCheckpointProcessCheckpoint(int pid, const void *args)
{
	char answer[TEXT];
	(void)args;
	return device_file < 0 ? NOT_INITIALIZED : call("checkpoint", pid, "checkpoint", answer);
}

struct restore_args {
	const unsigned char (*pairs)[32];
	unsigned count;
};

static size_t put_uuid(char *out, size_t room, const unsigned char *uuid)
{
	size_t length = (size_t)snprintf(out, room, "GPU-");
	for (int at = 0; at < 16 && length + 4 < room; at++) {
		const char *dash = at == 4 || at == 6 || at == 8 || at == 10 ? "-" : "";
		length += (size_t)snprintf(out + length, room - length, "%s%02x", dash, uuid[at]);
	}
	return length;
}

int cuCheckpointProcessRestore(int pid, const void *given)
{
	const struct restore_args *args = given;
	char words[TEXT] = "restore", answer[TEXT];
	size_t length = strlen(words);
	for (unsigned at = 0; args && at < args->count && length + 96 < sizeof words; at++) {
		length += (size_t)snprintf(words + length, sizeof words - length, "%s",
					   at ? "," : " map=");
		length += put_uuid(words + length, sizeof words - length, args->pairs[at]);
		words[length++] = '=';
		length += put_uuid(words + length, sizeof words - length, args->pairs[at] + 16);
	}
	return device_file < 0 ? NOT_INITIALIZED : call("restore", pid, words, answer);
}

int cuCheckpointProcessUnlock(int pid, const void *args)
{
	char answer[TEXT];
	(void)args;
	return device_file < 0 ? NOT_INITIALIZED : call("unlock", pid, "unlock", answer);
}

int cuCheckpointProcessGetState(int pid, int *state)
{
	static const char *const words[] = {"running", "locked", "checkpointed", "failed"};
	char answer[TEXT];
	int code = device_file < 0 ? NOT_INITIALIZED : call("get-state", pid, "state", answer);
	if (code)
		return code;
	for (int at = 0; at < 4; at++) {
		if (strcmp(answer + strspn(answer, " "), words[at]) == 0) {
			*state = at;
			return 0;
		}
	}
	*state = 17; /* a state that no driver has: a reader must not take it for one */
	return 0;
}

int cuCheckpointProcessGetRestoreThreadId(int pid, int *tid)
{
	char answer[TEXT];
	int code = device_file < 0 ? NOT_INITIALIZED : call("get-restore-tid", pid, "tid", answer);
	*tid = code ? 0 : atoi(answer);
	return code;
}
