/* A file in one call: see `files`. Each that gives up the GIL takes 5 ms beside a busy thread. */

#include "whole.h"

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
    Py_ssize_t taken = count > FEW && memory == NULL ? -1 : take(&pieces, from, count);
    if (taken < 0 && !PyErr_Occurred())
        PyErr_NoMemory();
    else if (taken >= 0 && taken != nbytes)
        PyErr_SetString(PyExc_BufferError,
                        "a buffer got another length while it was to be written");
    else if (taken == nbytes)
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
