/* The reader's peers: shuffled records of equal size, read as plainly as C allows. Prints seconds.
 *
 *   read_records pread FILE RECORDS BYTES THREADS KEPT     pread from one file
 *   read_records open FOLDER RECORDS BYTES THREADS KEPT    open, fstat, read, close of FOLDER/<number>
 *
 * Each thread reads into memory for KEPT records, again and again: 1 is the barest loop, whose buffer stays in the
 * cache; a loader must keep some batches. Nothing is checked.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *path;
static long records, bytes, threads, kept;
static long *order;
static int by_open, descriptor;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void read_file(long record, char *buffer) {
    char name[4096];
    struct stat status;
    snprintf(name, sizeof name, "%s/%ld", path, record);
    const int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) || read(file, buffer, (size_t)status.st_size) != bytes) fail(name);
    close(file);
}

static void *work(void *number) {
    char *memory = malloc((size_t)(kept * bytes));
    long place = 0;
    for (long i = (long)number; i < records; i += threads) {
        char *buffer = memory + place * bytes;
        place = (place + 1) % kept;
        if (by_open)
            read_file(order[i], buffer);
        else if (pread(descriptor, buffer, (size_t)bytes, order[i] * bytes) != bytes)
            fail(path);
    }
    free(memory);
    return NULL;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != 7) return 2;
    by_open = !strcmp(arguments[1], "open");
    path = arguments[2], records = atol(arguments[3]), bytes = atol(arguments[4]), threads = atol(arguments[5]);
    kept = atol(arguments[6]);
    if (!by_open && (descriptor = open(path, O_RDONLY)) < 0) fail(path);
    order = malloc((size_t)records * sizeof *order);
    for (long i = 0; i < records; ++i) order[i] = i;
    srandom(1);
    for (long i = records - 1; i > 0; --i) {
        const long j = random() % (i + 1), other = order[i];
        order[i] = order[j], order[j] = other;
    }
    pthread_t workers[64];
    const double begin = now();
    for (long k = 1; k < threads; ++k)
        if (pthread_create(&workers[k], NULL, work, (void *)k)) fail("thread");
    work(NULL);
    for (long k = 1; k < threads; ++k) pthread_join(workers[k], NULL);
    printf("%.9f\n", now() - begin);
    return 0;
}
