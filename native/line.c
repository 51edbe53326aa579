#define _GNU_SOURCE
#include "line.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Room for the end of a line. */
enum { TAIL = 3, VALUE_MAX = 200 };

__attribute__((format(printf, 2, 3)))
static void add(struct line *line, const char *format, ...)
{
	size_t room = sizeof line->text - TAIL - line->length;
	va_list arguments;
	va_start(arguments, format);
	int length = vsnprintf(line->text + line->length, room, format, arguments);
	va_end(arguments);
	if (length >= 0 && (size_t)length < room)
		line->length += (size_t)length;
}

static const char *comma(const struct line *line)
{
	return line->length > 1 ? "," : "";
}

void line_begin(struct line *line)
{
	line->text[0] = '{';
	line->length = 1;
}

/* Keep printable characters that need no escape: names are untrusted. */
static void clean(char *out, const char *value)
{
	size_t at = 0;
	for (; value[at] && at < VALUE_MAX; at++) {
		char letter = value[at];
		bool plain = letter >= ' ' && letter <= '~' && letter != '"' && letter != '\\';
		out[at] = plain ? letter : '?';
	}
	out[at] = '\0';
}

void line_text(struct line *line, const char *key, const char *value)
{
	char kept[VALUE_MAX + 1];
	clean(kept, value);
	add(line, "%s\"%s\":\"%s\"", comma(line), key, kept);
}

void line_number(struct line *line, const char *key, long long value)
{
	add(line, "%s\"%s\":%lld", comma(line), key, value);
}

void line_bool(struct line *line, const char *key, bool value)
{
	add(line, "%s\"%s\":%s", comma(line), key, value ? "true" : "false");
}

void line_end(struct line *line)
{
	size_t sent = 0;
	line->text[line->length++] = '}';
	line->text[line->length++] = '\n';
	while (sent < line->length) {
		ssize_t count = write(STDOUT_FILENO, line->text + sent, line->length - sent);
		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return; /* no reader; the moves are made all the same */
		sent += (size_t)count;
	}
}
