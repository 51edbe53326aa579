#define _GNU_SOURCE
#include "call.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "../clock.h"
#include "names.h"

enum { NUMBERS = 3, TEXT_LIMIT = 1 << 20, STATUS_LIMIT = 255 };

/* Connect, and check that a process of our user listens: others cannot make the folder, but it
 * costs nothing to be sure. The kernel waits for room in the queue for as long as the timeout. */
static int connected(const char *path, int limit_ms)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval limit = {limit_ms / 1000, limit_ms % 1000 * 1000L};
	struct ucred peer;
	socklen_t size = sizeof peer;
	if (snprintf(address.sun_path, sizeof address.sun_path, "%s", path) >= (int)sizeof address.sun_path)
		return -1;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0 &&
	    connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid())
		return fd;
	close(fd);
	return -1;
}

/* Wait until the socket is ready; false at the deadline. */
static bool ready(int fd, short events, long long deadline_ms)
{
	struct pollfd polled = {.fd = fd, .events = events};
	for (;;) {
		int count = poll(&polled, 1, left_ms(deadline_ms));
		if (count > 0)
			return true;
		if (count == 0 || errno != EINTR)
			return false;
	}
}

static bool send_all(int fd, const struct buffer *request, long long deadline_ms)
{
	size_t sent = 0;
	while (sent < request->length) {
		ssize_t count = send(fd, request->data + sent, request->length - sent,
				     MSG_NOSIGNAL | MSG_DONTWAIT);
		if (count >= 0) {
			sent += (size_t)count;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN || !ready(fd, POLLOUT, deadline_ms))
			return false;
	}
	return true;
}

static bool receive(int fd, char *data, size_t length, long long deadline_ms)
{
	while (length) {
		ssize_t count = recv(fd, data, length, MSG_DONTWAIT);
		if (count > 0) {
			data += count;
			length -= (size_t)count;
			continue;
		}
		if (count == 0)
			return false;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN || !ready(fd, POLLIN, deadline_ms))
			return false;
	}
	return true;
}

static uint32_t number(const unsigned char *data)
{
	return (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
}

static bool receive_answer(int fd, long long deadline_ms, struct buffer *kept, struct answer *answer)
{
	unsigned char head[4 * NUMBERS];
	if (!receive(fd, (char *)head, sizeof head, deadline_ms))
		return false;
	uint32_t status = number(head), out = number(head + 4), err = number(head + 8);
	if (status > STATUS_LIMIT || out > TEXT_LIMIT || err > TEXT_LIMIT)
		return false;
	kept->length = 0;
	if (!buffer_reserve(kept, (size_t)out + err))
		return false;
	if (!receive(fd, kept->data, (size_t)out + err, deadline_ms))
		return false;
	*answer = (struct answer){(int)status, kept->data, out, kept->data + out, err};
	return true;
}

static bool exchange(int fd, const struct buffer *request, struct patience patience,
		     struct buffer *kept, struct answer *answer)
{
	char mark[sizeof ANSWER_MARK - 1];
	long long begin_ms = now_ms() + patience.begin_ms;
	if (!send_all(fd, request, begin_ms) || !receive(fd, mark, sizeof mark, begin_ms))
		return false;
	if (memcmp(mark, ANSWER_MARK, sizeof mark))
		return false;
	return receive_answer(fd, now_ms() + patience.answer_ms, kept, answer);
}

bool call(const char *path, const struct buffer *request, struct patience patience,
	  struct buffer *kept, struct answer *answer)
{
	int fd = connected(path, patience.begin_ms);
	if (fd < 0)
		return false;
	bool done = exchange(fd, request, patience, kept, answer);
	close(fd);
	return done;
}
