/* The least that any KVM hypervisor does: run a guest in real mode, exit after exit, and ignore each.
 *
 * Usage: bare_loop GUEST EXITS. GUEST is loaded at 0x7c00. Prints how many nanoseconds one exit took. */

#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define RAM_BYTES 0x10000
#define LOAD_ADDRESS 0x7c00

static int must(int result, const char *what)
{
    if (result < 0) err(1, "%s", what);
    return result;
}

static void *must_map(size_t bytes, int flags, int fd)
{
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (mapped == MAP_FAILED) err(1, "mmap");
    return mapped;
}

static void load(const char *path, char *ram)
{
    int fd = must(open(path, O_RDONLY), path);
    must(read(fd, ram + LOAD_ADDRESS, RAM_BYTES - LOAD_ADDRESS), path);
    close(fd);
}

static int start_vcpu(int vm)
{
    int vcpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = LOAD_ADDRESS, .rflags = 2 };
    must(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    must(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    must(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
    return vcpu;
}

static double nanoseconds_per_exit(int vcpu, struct kvm_run *run, long exits)
{
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long i = 0; i < exits; i++) {
        if (ioctl(vcpu, KVM_RUN, 0) < 0) err(1, "KVM_RUN");
        if (run->exit_reason != KVM_EXIT_IO) errx(1, "exit reason %u", run->exit_reason);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / exits;
}

int main(int argc, char **argv)
{
    if (argc != 3) errx(2, "usage: bare_loop GUEST EXITS");
    int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    int vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    struct kvm_userspace_memory_region region = { .memory_size = RAM_BYTES };
    char *ram = must_map(RAM_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    region.userspace_addr = (unsigned long)ram;
    load(argv[1], ram);
    must(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
    must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    int vcpu = start_vcpu(vm);
    struct kvm_run *run = must_map(must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"),
                                   MAP_SHARED, vcpu);
    long exits = atol(argv[2]);
    nanoseconds_per_exit(vcpu, run, exits / 10 + 1);        /* the first ones fill caches and page tables */
    printf("%.1f\n", nanoseconds_per_exit(vcpu, run, exits));
    return 0;
}
