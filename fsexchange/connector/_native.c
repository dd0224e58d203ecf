/* An object with a file of its own, written or read in one call: see `keys` and `ownfiles`. */

#include "../filesystem/whole.h"

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

/* Put the path of a name in a folder, which is the start of a path, into memory of PATH_MAX bytes;
   -1 if it is longer. */
static int
join(char *path, PyObject *folder, const char *name, Py_ssize_t length)
{
    Py_ssize_t before = PyBytes_Size(folder);
    if (before + length >= PATH_MAX)
        return -1;
    memcpy(path, PyBytes_AsString(folder), (size_t)before);
    memcpy(path + before, name, (size_t)length + 1);
    return 0;
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
    Py_ssize_t size = PyLong_AsSsize_t(nbytes), length;
    long at = PyLong_AsLong(offset);
    const char *text = PyUnicode_AsUTF8AndSize(name, &length);
    char path[PATH_MAX];
    if (PyErr_Occurred()) { /* of what cannot be a key */
        PyErr_Clear();
        return Py_NewRef(Py_None);
    }
    if (at != 0 || size < 0 || size >= below || !is_own(text, length) ||
        join(path, args[2], text, length) < 0)
        return Py_NewRef(Py_None);
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

PyDoc_STRVAR(put_own_doc, "put_own(obj, kind, folder, name, /)\n--\n\n\
Write an object, bytes or a list of a few contiguous bytes, bytearrays and memoryviews, to a new\n\
file of this name in a folder, which is the start of a path, and return its key, of type `kind`;\n\
None for everything else.\n\
\n\
Raises what `create` raises.");

static PyObject *
put_own(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyType_Check(args[1]) || !PyBytes_CheckExact(args[2]) ||
        !PyUnicode_CheckExact(args[3])) {
        PyErr_SetString(PyExc_TypeError, "put_own takes an object, a type, bytes and a text");
        return NULL;
    }
    PyObject *obj = args[0];
    int is_one = PyBytes_CheckExact(obj), is_more = PyList_CheckExact(obj);
    Py_ssize_t length, few = is_one ? 1 : is_more ? PyList_Size(obj) : FEW + 1;
    const char *text = PyUnicode_AsUTF8AndSize(args[3], &length);
    char path[PATH_MAX];
    if (text == NULL)
        return NULL;
    if (few > FEW || join(path, args[2], text, length) < 0)
        return Py_NewRef(Py_None);
    for (Py_ssize_t i = 0; is_more && i < few; i++) {
        /* Others, as numpy's datetimes, may show their bytes, and refuse a memoryview of them. Of
           these no code of users shows them. */
        PyObject *each = PyList_GetItem(obj, i);
        if (!PyBytes_CheckExact(each) && !PyByteArray_CheckExact(each) && !PyMemoryView_Check(each))
            return Py_NewRef(Py_None);
    }
    Py_buffer views[FEW];
    struct iovec rest[FEW];
    struct pieces pieces = {views, rest, 0, 0};
    PyObject *from = is_one ? PyTuple_Pack(1, obj) : Py_NewRef(obj), *key = NULL;
    if (from == NULL)
        return NULL;
    Py_ssize_t nbytes = take(&pieces, from, few);
    Py_DECREF(from);
    if (nbytes < 0) {
        PyErr_Clear(); /* whoever else looks at it says more */
        key = Py_NewRef(Py_None);
        goto done;
    }
    newfunc make = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
    PyObject *fields = Py_BuildValue("((Oni))", args[3], nbytes, 0);
    if (fields != NULL)
        key = make((PyTypeObject *)args[1], fields, NULL);
    Py_XDECREF(fields);
    int failed = key == NULL ? -1 : write_new(path, &pieces, 0600);
    if (failed)
        Py_CLEAR(key);
    if (failed > 0) {
        errno = failed;
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
    }
done:
    release(&pieces);
    return key;
}

static PyMethodDef functions[] = {
    {"put_own", (PyCFunction)(void (*)(void))put_own, METH_FASTCALL, put_own_doc},
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
