/* Library for LD_PRELOAD of linux.uml on processors with AMX.
 *
 * linux.uml stores 2696 bytes of floating-point state per process, which is the size without AMX. The host accepts a
 * PTRACE_SETREGSET of NT_X86_XSTATE only with the full size. This library pads the state with zeros, which means no AMX
 * state; a process has none unless it requests it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

typedef long (*ptrace_function)(int request, pid_t pid, void *address, void *data);

static char state[1 << 16]; /* linux.uml is single-threaded */
static size_t full_length;

static long set_padded(ptrace_function real, pid_t pid, const struct iovec *given) {
    if (full_length == 0) {
        struct iovec all = {state, sizeof state};
        long result = real(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &all);
        if (result < 0)
            return result;
        full_length = all.iov_len;
    }
    memset(state, 0, sizeof state);
    memcpy(state, given->iov_base, given->iov_len < full_length ? given->iov_len : full_length);
    struct iovec padded = {state, full_length};
    return real(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &padded);
}

long ptrace(enum __ptrace_request request, ...) {
    static ptrace_function real;
    if (!real)
        real = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (request == PTRACE_SETREGSET && (unsigned long)address == NT_X86_XSTATE)
        return set_padded(real, pid, data);
    return real(request, pid, address, data);
}
