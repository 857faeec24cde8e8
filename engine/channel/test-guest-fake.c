/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/channel/test-guest-fake.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int
make_memfd(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, FAKE_SIZE), ==, 0);
    return fd;
}

static guint64
map(int protection, int flags, int fd)
{
    void *at = mmap(NULL, FAKE_SIZE, protection, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    g_assert_true(at != MAP_FAILED);
    /* One huge page would be all mapped at once. */
    madvise(at, FAKE_SIZE, MADV_NOHUGEPAGE);
    return (guint64)(guintptr)at;
}

/* Maps it all here. The child is then born with it, at the same addresses. */
static void
map_blocks(Fake *fake)
{
    const int rw = PROT_READ | PROT_WRITE;
    fake->memfd = make_memfd("drover-test");
    fake->file = make_memfd("drover-test-private");
    g_autofree char *full = g_malloc(FAKE_FULL);
    memset(full, 0xee, FAKE_FULL);
    g_assert_cmpint(pwrite(fake->file, full, FAKE_FULL, FAKE_FULL), ==, FAKE_FULL);
    for (guint i = 0; i < FAKE_N; i++) {
        DrvGuestBlock *block = &fake->blocks[i];
        g_snprintf(block->id, sizeof block->id, "block%u", i);
        block->size = FAKE_SIZE;
    }
    fake->blocks[FAKE_ANON].hva = map(rw, MAP_PRIVATE, -1);
    fake->blocks[FAKE_MEMFD].hva = map(rw, MAP_SHARED, fake->memfd);
    fake->blocks[FAKE_PRIVATE].hva = map(rw, MAP_PRIVATE, fake->file);
    fake->blocks[FAKE_SHARED].hva = map(rw, MAP_SHARED, -1);
    fake->blocks[FAKE_SEALED].hva = map(PROT_READ, MAP_PRIVATE, -1);
    fake->blocks[FAKE_TORN].hva = map(rw, MAP_PRIVATE, -1);
    fake->blocks[FAKE_REFUSED].why = "somebody said so";
}

static void
tear(const Fake *fake, guint block)
{
    guint64 half = FAKE_PAGES / 2 * DRV_GUEST_PAGE;
    munmap((void *)(guintptr)(fake->blocks[block].hva + half), FAKE_SIZE - half);
}

/* The child: it does what it is told until nobody can tell it any more. */
static void
obey(const Fake *fake, int commands, int answers)
{
    guint command[2];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    tear(fake, FAKE_TORN);
    while (write(answers, "", 1) == 1 &&
           read(commands, command, sizeof command) == sizeof command) {
        if (command[0] == 't')
            tear(fake, command[1]);
        else if (setresuid(command[1], command[1], command[1]) < 0)
            break;
    }
    _exit(0);
}

static void
wait_answer(const Fake *fake)
{
    char byte;
    g_assert_cmpint(read(fake->answers, &byte, 1), ==, 1);
}

void
fake_start(Fake *fake)
{
    int commands[2], answers[2];
    char path[48];
    *fake = (Fake){.mem = -1};
    map_blocks(fake);
    g_assert_cmpint(pipe2(commands, O_CLOEXEC), ==, 0);
    g_assert_cmpint(pipe2(answers, O_CLOEXEC), ==, 0);
    fake->pid = fork();
    g_assert_cmpint(fake->pid, >=, 0);
    if (fake->pid == 0) {
        close(commands[1]);
        close(answers[0]);
        obey(fake, commands[0], answers[1]);
    }
    close(commands[0]);
    close(answers[1]);
    fake->commands = commands[1];
    fake->answers = answers[0];
    wait_answer(fake);
    for (guint i = 0; i < FAKE_N; i++)
        if (fake->blocks[i].hva != 0)
            munmap((void *)(guintptr)fake->blocks[i].hva, FAKE_SIZE);
    g_snprintf(path, sizeof path, "/proc/%d/mem", (int)fake->pid);
    fake->mem = open(path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fake->mem, >=, 0);
}

void
fake_kill(Fake *fake)
{
    kill(fake->pid, SIGKILL);
    g_assert_cmpint(waitpid(fake->pid, NULL, 0), ==, fake->pid);
    fake->pid = 0;
}

void
fake_stop(Fake *fake)
{
    if (fake->pid > 0)
        fake_kill(fake);
    close(fake->commands);
    close(fake->answers);
    close(fake->mem);
    close(fake->memfd);
    close(fake->file);
}

static void
tell(const Fake *fake, guint what, guint argument)
{
    guint command[2] = {what, argument};
    g_assert_cmpint(write(fake->commands, command, sizeof command), ==, sizeof command);
    wait_answer(fake);
}

void
fake_tear(Fake *fake, guint block)
{
    tell(fake, 't', block);
}

void
fake_become(Fake *fake, uid_t uid)
{
    tell(fake, 'u', uid);
}

DrvGuestRam *
fake_open(const Fake *fake)
{
    g_autoptr(GError) error = NULL;
    DrvGuestRam *ram = drv_guest_ram_open(fake->pid, fake->blocks, FAKE_N, &error);
    g_assert_no_error(error);
    return ram;
}

void
fake_peek(const Fake *fake, guint block, guint64 offset, void *data, gsize len)
{
    g_assert_cmpint(pread(fake->mem, data, len, (off_t)(fake->blocks[block].hva + offset)), ==,
                    len);
}

void
fake_poke(const Fake *fake, guint block, guint64 offset, const void *data, gsize len)
{
    g_assert_cmpint(pwrite(fake->mem, data, len, (off_t)(fake->blocks[block].hva + offset)), ==,
                    len);
}

guint
fake_mapped(const Fake *fake, guint block)
{
    guint64 entries[FAKE_PAGES];
    char path[48];
    guint n = 0;
    g_snprintf(path, sizeof path, "/proc/%d/pagemap", (int)fake->pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(pread(fd, entries, sizeof entries,
                          (off_t)(fake->blocks[block].hva / DRV_GUEST_PAGE * sizeof *entries)),
                    ==, sizeof entries);
    close(fd);
    for (guint i = 0; i < FAKE_PAGES; i++)
        n += entries[i] >> 63 != 0;
    return n;
}

guint64
fake_allocated(int fd)
{
    struct stat st;
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    return (guint64)st.st_blocks * 512;
}
