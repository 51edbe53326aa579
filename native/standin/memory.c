/* The memory, streams and kernels of a libcuda.so.1 that has no GPU behind it: device memory is
 * memory of this process, and every call is done when it returns. It is for testing programs that
 * call the driver's API: it checks what they hand over and does what the one kernel would.
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

/* What handles point to: the word tells one kind from another. */
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

int cuModuleGetFunction(void **function, void *module, const char *name)
{
	if (!of(module, "module") || strcmp(name, "move") != 0)
		return NOT_FOUND;
	return make(function, "function");
}

/* The one kernel: move(to, from, count) copies `count` words of eight bytes, a thread each. */
int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
		   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
		   void *stream, void **parameters, void **extra)
{
	if (!of(function, "function") || !of(stream, "stream") || extra || shared)
		return INVALID;
	if (grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1 || block_x > 1024)
		return INVALID;
	address to = *(address *)parameters[0], from = *(address *)parameters[1];
	size_t threads = (size_t)grid_x * block_x, count = *(unsigned *)parameters[2];
	memmove((void *)(uintptr_t)to, (void *)(uintptr_t)from,
		8 * (threads < count ? threads : count));
	return 0;
}
