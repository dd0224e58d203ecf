/* What each `get` of a small object asks, in one call: see `keys` and `ownfiles`. */

#include "../filesystem/whole.h"

#include <limits.h>
#include <string.h>

/* As in `keys`: of the names of files, those of `put`, <writer>/<number>. */
enum { WRITER = 16, MOST_DIGITS = 20 };

static int
is_own(const char *name, Py_ssize_t length)
{
    if (length <= WRITER + 1 || length > WRITER + 1 + MOST_DIGITS || name[WRITER] != '/')
        return 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        int is_digit = name[i] >= '0' && name[i] <= '9';
        int is_letter = i < WRITER && name[i] >= 'a' && name[i] <= 'f';
        if (!is_digit && !is_letter && i != WRITER)
            return 0;
    }
    return 1;
}

PyDoc_STRVAR(read_own_doc, "read_own(key, kind, folder, below, uid, /)\n--\n\n\
Return the object of a key of `put`, of type `kind`, if it has a file of its own in a folder, which\n\
is the start of a path, is as long as the key says, shorter than `below` bytes, and of the user\n\
`uid` unless that is -1; None for everything else.\n\
\n\
Raises what os.open raises.");

static PyObject *
read_own(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 5 || !PyBytes_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "read_own takes a key, a type, bytes and two numbers");
        return NULL;
    }
    Py_ssize_t below = PyLong_AsSsize_t(args[3]);
    long uid = PyLong_AsLong(args[4]);
    if (PyErr_Occurred())
        return NULL;
    PyObject *key = args[0];
    if ((PyObject *)Py_TYPE(key) != args[1] || !PyTuple_Check(key) || PyTuple_Size(key) != 3)
        return Py_NewRef(Py_None);
    PyObject *name = PyTuple_GetItem(key, 0), *nbytes = PyTuple_GetItem(key, 1);
    PyObject *offset = PyTuple_GetItem(key, 2);
    if (!PyUnicode_CheckExact(name) || !PyLong_CheckExact(nbytes) || !PyLong_CheckExact(offset))
        return Py_NewRef(Py_None);
    Py_ssize_t size = PyLong_AsSsize_t(nbytes), length, before = PyBytes_Size(args[2]);
    long at = PyLong_AsLong(offset);
    const char *text = PyUnicode_AsUTF8AndSize(name, &length);
    char path[PATH_MAX];
    if (PyErr_Occurred()) { /* of what cannot be a key */
        PyErr_Clear();
        return Py_NewRef(Py_None);
    }
    if (at != 0 || size < 0 || size >= below || !is_own(text, length) ||
        before + length >= (Py_ssize_t)sizeof path)
        return Py_NewRef(Py_None);
    memcpy(path, PyBytes_AsString(args[2]), (size_t)before);
    memcpy(path + before, text, (size_t)length + 1);
    int refused;
    PyObject *whole = read_file(path, size, uid, &refused);
    if (whole != NULL || PyErr_Occurred())
        return whole;
    if (refused && refused != EINTR) { /* as for `read_whole` */
        errno = refused;
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
    }
    return Py_NewRef(Py_None);
}

static PyMethodDef functions[] = {
    {"read_own", (PyCFunction)(void (*)(void))read_own, METH_FASTCALL, read_own_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fsexchange.connector._native",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModule_Create(&definition);
}
