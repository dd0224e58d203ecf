/* Whole files, each read in one call into memory that is used again. */

#include "limited.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pages.h"

/* Memory that was returned last, of so many bytes at first. It is used again if nobody else has it:
   what is loaded from it is often a copy. New memory, with a fault for each page, takes longer than
   to read 64 KiB. */
struct memory {
    PyObject *bytearray;
    Py_ssize_t capacity;
};

static struct memory last;

enum { USED_AGAIN_FROM = 1 << 14 }; /* bytes: of fewer malloc has some that is not new */

/* Get memory of so many bytes; -1 for an error. */
static int
get_memory(struct memory *memory, Py_ssize_t nbytes)
{
    *memory = (struct memory){NULL, nbytes};
    int is_longer = last.bytearray != NULL && PyByteArray_Size(last.bytearray) > last.capacity;
    if (nbytes >= USED_AGAIN_FROM || is_longer) { /* whoever got it has made it so */
        *memory = last; /* no other thread gets the same */
        last.bytearray = NULL;
    }
    if (memory->bytearray != NULL) {
        /* Within these bounds it is not moved. */
        if (!is_longer && Py_REFCNT(memory->bytearray) == 1 && nbytes <= memory->capacity &&
            nbytes > memory->capacity / 2 && PyByteArray_Resize(memory->bytearray, nbytes) == 0)
            return 0;
        PyErr_Clear();
        Py_DECREF(memory->bytearray);
    }
    /* Not filled with zeros. */
    *memory = (struct memory){PyByteArray_FromStringAndSize(NULL, nbytes), nbytes};
    return memory->bytearray == NULL ? -1 : 0;
}

/* Return the bytearray. */
static PyObject *
keep(struct memory memory)
{
    if (memory.capacity >= USED_AGAIN_FROM) {
        PyObject *before = last.bytearray;
        last = memory;
        Py_INCREF(memory.bytearray);
        Py_XDECREF(before);
    }
    return memory.bytearray;
}

/* Return a file of `nbytes` bytes, of the user `uid` unless that is -1. NULL for any other, where
   `refused` is what open says; and for an error of Python's. */
static PyObject *
read_file(const char *name, Py_ssize_t nbytes, long uid, int *refused)
{
    struct memory memory;
    *refused = 0;
    if (get_memory(&memory, nbytes) < 0)
        return NULL;
    /* One byte more than there should be: so a longer file is noticed. */
    char beyond;
    struct iovec into[] = {{PyByteArray_AsString(memory.bytearray), (size_t)nbytes}, {&beyond, 1}};
    struct stat status;
    int is_whole = 0, failed = 0;
    Py_BEGIN_ALLOW_THREADS
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        failed = errno;
    else {
        if (uid == -1 || (fstat(fd, &status) == 0 && status.st_uid == (uid_t)uid)) {
            if (is_new(into[0].iov_base, (uint64_t)nbytes))
                ask_for_pages(into[0].iov_base, (uint64_t)nbytes);
            is_whole = readv(fd, into, 2) == nbytes;
        }
        close(fd);
    }
    Py_END_ALLOW_THREADS
    if (is_whole)
        return keep(memory);
    *refused = failed;
    Py_DECREF(memory.bytearray);
    return NULL;
}
