#define _GNU_SOURCE
#include "map.h"

#include <stdlib.h>
#include <string.h>

enum { PAIRS_MAX = 64 };

static int digit(char letter)
{
	if (letter >= '0' && letter <= '9')
		return letter - '0';
	if (letter >= 'a' && letter <= 'f')
		return letter - 'a' + 10;
	if (letter >= 'A' && letter <= 'F')
		return letter - 'A' + 10;
	return -1;
}

/* Parse GPU-8-4-4-4-12, the prefix is optional; return what follows, NULL if it is not a UUID. */
static const char *parse_uuid(const char *text, struct uuid *uuid)
{
	static const char prefix[] = "GPU-";
	if (strncmp(text, prefix, sizeof prefix - 1) == 0)
		text += sizeof prefix - 1;
	for (int at = 0; at < 16; at++) {
		if (at == 4 || at == 6 || at == 8 || at == 10) {
			if (*text++ != '-')
				return NULL;
		}
		int high = digit(text[0]);
		int low = high < 0 ? -1 : digit(text[1]);
		if (low < 0)
			return NULL;
		uuid->bytes[at] = (unsigned char)(high << 4 | low);
		text += 2;
	}
	return text;
}

static const char *parse_pair(const char *text, struct gpu_pair *pair)
{
	text = parse_uuid(text, &pair->from);
	if (!text || *text != '=')
		return NULL;
	return parse_uuid(text + 1, &pair->to);
}

bool map_parse(const char *text, struct device_map *map)
{
	map->count = 0;
	map->pairs = calloc(PAIRS_MAX, sizeof *map->pairs);
	while (map->pairs && map->count < PAIRS_MAX) {
		text = parse_pair(text, &map->pairs[map->count++]);
		if (!text || (*text && *text != ','))
			return false;
		if (!*text++)
			return true;
	}
	return false;
}
