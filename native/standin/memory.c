/* The memory, streams and kernels of a libcuda.so.1 that has no GPU behind it: device memory is
 * memory of this process, and every call is done when it returns. It is for testing programs that
 * call the driver's API: it checks what they hand over and does what their kernels would.
 */

#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t address;

EXPORT int cuDeviceGet(int *device, int ordinal);
EXPORT int cuDeviceGetCount(int *count);
EXPORT int cuDevicePrimaryCtxRetain(void **context, int device);
EXPORT int cuCtxSetCurrent(void *context);
EXPORT int cuMemAlloc_v2(address *memory, size_t size);
EXPORT int cuMemAllocHost_v2(void **memory, size_t size);
EXPORT int cuMemcpyHtoD_v2(address to, const void *from, size_t size);
EXPORT int cuMemcpyHtoDAsync_v2(address to, const void *from, size_t size, void *stream);
EXPORT int cuMemcpyDtoH_v2(void *to, address from, size_t size);
EXPORT int cuStreamCreate(void **stream, unsigned flags);
EXPORT int cuEventCreate(void **event, unsigned flags);
EXPORT int cuEventRecord(void *event, void *stream);
EXPORT int cuEventSynchronize(void *event);
EXPORT int cuModuleLoadData(void **module, const char *image);
EXPORT int cuModuleGetFunction(void **function, void *module, const char *name);
EXPORT int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
			  unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
			  void *stream, void **parameters, void **extra);

/* What handles point to: the word identifies the kind. */
struct object {
	const char *kind;
	int recorded;
};

static int make(void **handle, const char *kind)
{
	struct object *object = calloc(1, sizeof *object);
	if (!object)
		return OUT_OF_MEMORY;
	object->kind = kind;
	*handle = object;
	return 0;
}

static struct object *of(void *handle, const char *kind)
{
	struct object *object = handle;
	return object && strcmp(object->kind, kind) == 0 ? object : NULL;
}

int cuDeviceGetCount(int *count)
{
	*count = 1;
	return 0;
}

int cuDeviceGet(int *device, int ordinal)
{
	*device = 0;
	return ordinal ? 101 : 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
	return device ? 101 : make(context, "context");
}

int cuCtxSetCurrent(void *context)
{
	return of(context, "context") ? 0 : 201;
}

int cuMemAlloc_v2(address *memory, size_t size)
{
	void *found = size ? malloc(size) : NULL;
	*memory = (address)(uintptr_t)found;
	return found ? 0 : OUT_OF_MEMORY;
}

int cuMemAllocHost_v2(void **memory, size_t size)
{
	*memory = size ? malloc(size) : NULL;
	return *memory ? 0 : OUT_OF_MEMORY;
}

int cuMemcpyHtoD_v2(address to, const void *from, size_t size)
{
	memcpy((void *)(uintptr_t)to, from, size);
	return 0;
}

int cuMemcpyHtoDAsync_v2(address to, const void *from, size_t size, void *stream)
{
	return of(stream, "stream") ? cuMemcpyHtoD_v2(to, from, size) : INVALID;
}

int cuMemcpyDtoH_v2(void *to, address from, size_t size)
{
	memcpy(to, (const void *)(uintptr_t)from, size);
	return 0;
}

int cuStreamCreate(void **stream, unsigned flags)
{
	return flags > 1 ? INVALID : make(stream, "stream");
}

int cuEventCreate(void **event, unsigned flags)
{
	return flags > 3 ? INVALID : make(event, "event");
}

int cuEventRecord(void *event, void *stream)
{
	if (!of(event, "event") || !of(stream, "stream"))
		return INVALID;
	of(event, "event")->recorded = 1;
	return 0;
}

int cuEventSynchronize(void *event)
{
	return of(event, "event") && of(event, "event")->recorded ? 0 : INVALID;
}

int cuModuleLoadData(void **module, const char *image)
{
	return strstr(image, ".entry") && strstr(image, ".target") ? make(module, "module") : 218;
}

/* -- the kernels of shim/simgpu/guest/libcuda.py, a thread for each word of eight bytes --------- */

static uint64_t number(void **parameters, int at)
{
	return *(uint64_t *)parameters[at];
}

static uint64_t *words_at(void **parameters, int at)
{
	return (uint64_t *)(uintptr_t)number(parameters, at);
}

/* As pattern.Weights has it. */
static uint64_t mixed(uint64_t seed, uint64_t index)
{
	uint64_t value = seed + (index + 1) * 0x9E3779B97F4A7C15;
	value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9;
	value = (value ^ value >> 27) * 0x94D049BB133111EB;
	return value ^ value >> 31;
}

static void move(size_t threads, void **parameters)
{
	size_t count = *(unsigned *)parameters[2];
	memmove(words_at(parameters, 0), words_at(parameters, 1),
		8 * (threads < count ? threads : count));
}

static void fill(size_t threads, void **parameters)
{
	for (size_t at = 0; at < threads && at < number(parameters, 2); at++)
		words_at(parameters, 0)[at] = mixed(number(parameters, 1), at);
}

static void wrong(size_t threads, void **parameters)
{
	for (size_t at = 0; at < threads && at < number(parameters, 2); at++)
		if (words_at(parameters, 0)[at] != mixed(number(parameters, 1), at))
			++*words_at(parameters, 3);
}

static const struct kernel {
	const char *name;
	void (*run)(size_t threads, void **parameters);
} kernels[] = {{"move", move}, {"fill", fill}, {"wrong", wrong}};

enum { KERNELS = sizeof kernels / sizeof *kernels };

int cuModuleGetFunction(void **function, void *module, const char *name)
{
	if (!of(module, "module"))
		return NOT_FOUND;
	for (size_t at = 0; at < KERNELS; at++)
		if (strcmp(kernels[at].name, name) == 0)
			return make(function, kernels[at].name);
	return NOT_FOUND;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
		   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
		   void *stream, void **parameters, void **extra)
{
	if (!of(stream, "stream") || extra || shared)
		return INVALID;
	if (grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1 || block_x > 1024)
		return INVALID;
	for (size_t at = 0; at < KERNELS; at++) {
		if (of(function, kernels[at].name)) {
			kernels[at].run((size_t)grid_x * block_x, parameters);
			return 0;
		}
	}
	return INVALID;
}
