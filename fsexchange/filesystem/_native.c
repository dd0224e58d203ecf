/* A small file in one call: see `files`.

   Only what CPython's limited API of 3.10 has is used, so that one file serves all later versions.
   No Py_RETURN_NONE: as headers from 3.12 on have it, it takes no reference, which 3.10 needs.
*/

#define Py_LIMITED_API 0x030a0000
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pages.h"

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
    const char *name = PyBytes_AsString(encoded);
    PyObject *data = PyByteArray_FromStringAndSize(NULL, nbytes); /* not filled with zeros */
    if (name == NULL || data == NULL) {
        Py_DECREF(encoded);
        Py_XDECREF(data);
        return NULL;
    }
    /* One byte more than there should be: so a longer file is noticed. */
    char beyond;
    struct iovec into[] = {{PyByteArray_AsString(data), (size_t)nbytes}, {&beyond, 1}};
    struct stat status;
    int is_whole = 0, refused = 0;
    Py_BEGIN_ALLOW_THREADS
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        refused = errno;
    else {
        if (uid == -1 || (fstat(fd, &status) == 0 && status.st_uid == (uid_t)uid)) {
            if (is_new(into[0].iov_base, (uint64_t)nbytes))
                ask_for_pages(into[0].iov_base, (uint64_t)nbytes);
            is_whole = readv(fd, into, 2) == nbytes;
        }
        close(fd);
    }
    Py_END_ALLOW_THREADS
    Py_DECREF(encoded);
    if (is_whole)
        return data;
    Py_DECREF(data);
    if (refused && refused != EINTR) { /* with that, Python runs the signal's handler first */
        errno = refused;
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    }
    return Py_NewRef(Py_None);
}

static PyMethodDef functions[] = {
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
