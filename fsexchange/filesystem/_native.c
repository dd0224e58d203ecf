/* A file in one call: see `files`. Each that gives up the GIL takes 5 ms beside a busy thread. */

#include "whole.h"

#include <limits.h>

/* ---- read ----------------------------------------------------------------------------------- */

PyDoc_STRVAR(read_whole_doc, "read_whole(path, nbytes, uid, /)\n--\n\n\
Return a file of `nbytes` bytes, of the user `uid` unless that is -1; None for any other.\n\
\n\
Raises what os.open raises.");

static PyObject *
read_whole(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *path, *encoded;
    Py_ssize_t nbytes;
    long uid;
    if (!PyArg_ParseTuple(args, "Onl", &path, &nbytes, &uid) ||
        !PyUnicode_FSConverter(path, &encoded))
        return NULL;
    int refused = 0;
    const char *name = PyBytes_AsString(encoded);
    PyObject *whole = name == NULL ? NULL : read_file(name, nbytes, uid, &refused);
    Py_DECREF(encoded);
    if (whole != NULL || PyErr_Occurred())
        return whole;
    if (refused && refused != EINTR) { /* with that, Python runs the signal's handler first */
        errno = refused;
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    }
    return Py_NewRef(Py_None);
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

/* Take the buffers of a sequence, which are to have so many bytes in all; -1 for an error. */
static int
take(struct pieces *pieces, PyObject *from, Py_ssize_t count, Py_ssize_t nbytes)
{
    for (; pieces->count < count; pieces->count++) {
        Py_buffer *view = &pieces->views[pieces->count];
        PyObject *each = PySequence_GetItem(from, pieces->count);
        int failed = each == NULL || PyObject_GetBuffer(each, view, PyBUF_SIMPLE) < 0;
        Py_XDECREF(each);
        if (failed)
            return -1;
        nbytes -= view->len;
        if (view->len)
            pieces->rest[pieces->left++] = (struct iovec){view->buf, (size_t)view->len};
    }
    if (nbytes == 0)
        return 0;
    PyErr_SetString(PyExc_BufferError, "a buffer got another length while it was to be written");
    return -1;
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

PyDoc_STRVAR(create_doc, "create(path, pieces, nbytes, mode=0o600, /)\n--\n\n\
Write contiguous buffers, `nbytes` in all, to a file that must not exist yet: all, or no file.\n\
\n\
Raises OSError. Not synced to disk.");

static PyObject *
create(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *path, *from, *encoded;
    Py_ssize_t nbytes;
    unsigned int mode = 0600;
    if (!PyArg_ParseTuple(args, "OOn|I", &path, &from, &nbytes, &mode))
        return NULL;
    Py_ssize_t count = PySequence_Size(from);
    if (count < 0 || !PyUnicode_FSConverter(path, &encoded))
        return NULL;
    enum { FEW = 8 };
    Py_buffer views[FEW];
    struct iovec rest[FEW];
    void *memory = NULL;
    struct pieces pieces = {views, rest, 0, 0};
    if (count > FEW) {
        memory = PyMem_Calloc((size_t)count, sizeof *views + sizeof *rest);
        pieces.views = memory;
        pieces.rest = (struct iovec *)(pieces.views + count);
    }
    int failed = -1;
    if (count > FEW && memory == NULL)
        PyErr_NoMemory();
    else if (take(&pieces, from, count, nbytes) == 0)
        failed = write_new(PyBytes_AsString(encoded), &pieces, (mode_t)mode);
    release(&pieces);
    PyMem_Free(memory);
    Py_DECREF(encoded);
    if (failed > 0) {
        errno = failed;
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    }
    return failed ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef functions[] = {
    {"create", create, METH_VARARGS, create_doc},
    {"read_whole", read_whole, METH_VARARGS, read_whole_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fsexchange.filesystem._native",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModule_Create(&definition);
}
