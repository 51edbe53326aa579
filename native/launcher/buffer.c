#define _GNU_SOURCE
#include "buffer.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 1 << 16 };

bool buffer_reserve(struct buffer *buffer, size_t more)
{
	if (buffer->room - buffer->length >= more)
		return true;
	if (more > SIZE_MAX / 4 || buffer->length > SIZE_MAX / 4)
		return false;
	size_t room = 2 * buffer->length + more;
	char *data = realloc(buffer->data, room);
	if (!data)
		return false;
	buffer->data = data;
	buffer->room = room;
	return true;
}

bool buffer_add(struct buffer *buffer, const void *data, size_t length)
{
	if (!buffer_reserve(buffer, length))
		return false;
	if (length)
		memcpy(buffer->data + buffer->length, data, length);
	buffer->length += length;
	return true;
}

bool buffer_text(struct buffer *buffer, const char *text)
{
	return buffer_add(buffer, text, strlen(text) + 1);
}

bool buffer_number(struct buffer *buffer, unsigned long number)
{
	char text[24];
	snprintf(text, sizeof text, "%lu", number);
	return buffer_text(buffer, text);
}

bool buffer_read(struct buffer *buffer, int fd, size_t limit)
{
	while (limit) {
		size_t piece = limit < PIECE ? limit : PIECE;
		if (!buffer_reserve(buffer, piece))
			return false;
		ssize_t count = read(fd, buffer->data + buffer->length, piece);
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return false;
		if (count == 0)
			return true;
		buffer->length += (size_t)count;
		limit -= (size_t)count;
	}
	return true;
}

bool write_all(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t count = write(fd, data, length);
		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return false;
		data += count;
		length -= (size_t)count;
	}
	return true;
}
