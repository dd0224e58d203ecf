/* Whole files: each read in one call, into memory that is used again, or written in one. */

#include "limited.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pages.h"

/* ---- read ----------------------------------------------------------------------------------- */

/* Memory that was returned last, of so many bytes at first. It is used again if nobody else has it:
   what is loaded from it is often a copy. New memory, with a fault for each page, takes longer than
   to read 64 KiB. */
struct memory {
    PyObject *bytearray;
    Py_ssize_t capacity;
};

static struct memory last;

enum { USED_AGAIN_FROM = 1 << 14 }; /* bytes: of fewer malloc has some that is not new */

/* Get memory of so many bytes; 1 if it is used again, -1 for an error. */
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
            return 1;
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
    int is_again = get_memory(&memory, nbytes);
    if (is_again < 0)
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
            if (!is_again && is_new(into[0].iov_base, (uint64_t)nbytes))
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

/* ---- write ---------------------------------------------------------------------------------- */

/* Buffers that are written one after the other, and the rest of them. */
struct pieces {
    Py_buffer *views;
    struct iovec *rest;
    Py_ssize_t count, left;
};

static void
release(struct pieces *pieces)
{
    for (Py_ssize_t i = 0; i < pieces->count; i++)
        PyBuffer_Release(&pieces->views[i]);
}

/* So many buffers most objects have at most. */
enum { FEW = 8 };

/* Take the buffers of a sequence, and return how many bytes they have in all; -1 for an error. */
static Py_ssize_t
take(struct pieces *pieces, PyObject *from, Py_ssize_t count)
{
    Py_ssize_t nbytes = 0;
    for (; pieces->count < count; pieces->count++) {
        Py_buffer *view = &pieces->views[pieces->count];
        PyObject *each = PySequence_GetItem(from, pieces->count);
        int failed = each == NULL || PyObject_GetBuffer(each, view, PyBUF_SIMPLE) < 0;
        Py_XDECREF(each);
        if (failed)
            return -1;
        nbytes += view->len;
        if (view->len)
            pieces->rest[pieces->left++] = (struct iovec){view->buf, (size_t)view->len};
    }
    return nbytes;
}

/* Write as much of the rest as one call takes; 0, or an errno. */
static int
write_on(int fd, struct pieces *pieces, off_t *offset)
{
    ssize_t done = pwritev(fd, pieces->rest, (int)(pieces->left < IOV_MAX ? pieces->left : IOV_MAX),
                           *offset);
    if (done <= 0)
        return done < 0 ? errno : EIO;
    *offset += done;
    while (pieces->left && (size_t)done >= pieces->rest->iov_len) {
        done -= (ssize_t)pieces->rest->iov_len;
        pieces->rest++;
        pieces->left--;
    }
    if (pieces->left) {
        pieces->rest->iov_base = (char *)pieces->rest->iov_base + done;
        pieces->rest->iov_len -= (size_t)done;
    }
    return 0;
}

/* Write all pieces to a file that must not exist yet, or leave none. Handlers of signals run
   between the calls. 0, an errno, or -1 if a handler has raised an error. */
static int
write_new(const char *path, struct pieces *pieces, mode_t mode)
{
    int fd = -1, failed, is_closed = 0;
    off_t offset = 0;
    do {
        Py_BEGIN_ALLOW_THREADS
        failed = 0;
        if (fd < 0 && (fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)) < 0)
            failed = errno;
        if (!failed && pieces->left)
            failed = write_on(fd, pieces, &offset);
        if (!failed && !pieces->left) {
            /* Write errors may show only here (NFS, quotas). The descriptor is gone either way, so
               this is never repeated: close(2). */
            is_closed = 1;
            failed = close(fd) == 0 ? 0 : errno;
        }
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0)
            failed = -1;
    } while (!is_closed && (failed == 0 || failed == EINTR));
    if (failed && fd >= 0) { /* nobody will ever have the key of half a file */
        Py_BEGIN_ALLOW_THREADS
        if (!is_closed)
            (void)close(fd);
        (void)unlink(path); /* the first error says more */
        Py_END_ALLOW_THREADS
    }
    return failed;
}
