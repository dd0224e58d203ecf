/* What is asked about every object of a pickle, in C: see `simple`, `format`, `instances`, `kinds`.

   These modules have the same in Python, for where there was no C compiler. */

#include "../filesystem/limited.h"

#include <string.h>

#include "../filesystem/pages.h"

/* pickle.dumps and pickle.loads, the protocol of pickles, a name of an argument; numpy.ndarray. */
static PyObject *dumps, *loads, *protocol, *its_buffers, *ndarray;

/* ---- checksums ------------------------------------------------------------------------------ */

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx"))) static void
clean_registers(void)
{
    _mm256_zeroupper();
}

static int
has_registers_to_clean(void)
{
    return __builtin_cpu_supports("avx") != 0;
}
#else
static void
clean_registers(void)
{
}

static int
has_registers_to_clean(void)
{
    return 0;
}
#endif

static PyObject *
crc_then_clean(PyObject *function, PyObject *const *args, Py_ssize_t count)
{
    if (count != 1 && count != 2) {
        PyErr_Format(PyExc_TypeError, "crc32 takes 1 or 2 arguments, not %zd", count);
        return NULL;
    }
    PyObject *crc = PyObject_CallFunctionObjArgs(function, args[0], count == 2 ? args[1] : NULL, NULL);
    clean_registers();
    return crc;
}

static PyMethodDef of_cleaning = {
    "crc32", (PyCFunction)(void (*)(void))crc_then_clean, METH_FASTCALL, NULL};

PyDoc_STRVAR(cleaning_doc, "cleaning(crc32, /)\n--\n\n\
Return what does as isal's crc32, and leaves the vector registers as it found them.\n\
\n\
With AVX-512 that leaves their upper halves in use. Until somebody clears these, each instruction\n\
of SSE waits (Intel's optimization manual, on transitions between AVX and SSE): the CRC of 29 bytes\n\
takes 0.16 us in place of 0.04, dumps of a tuple 0.73 in place of 0.40.");

static PyObject *
cleaning(PyObject *Py_UNUSED(module), PyObject *crc32)
{
    return has_registers_to_clean() ? PyCFunction_NewEx(&of_cleaning, crc32, NULL)
                                    : Py_NewRef(crc32);
}

/* ---- simple objects ------------------------------------------------------------------------- */

/* To look at more values takes longer than it saves. So the search ends in an object that contains
   itself, too. */
enum { MOST_VALUES = 64 };

struct left {
    Py_ssize_t bytes;
    Py_ssize_t values;
};

/* A pickle's start and end: PROTO, FRAME, STOP. */
enum { ENDS = 12 };

/* Return how many bytes at most a length, a memo entry and the frames around n bytes take. */
static Py_ssize_t
around(Py_ssize_t n)
{
    return n < 256 ? 3 : 32;
}

static int fits(PyObject *obj, struct left *left);

/* Return whether all n items of a tuple or list fit. */
static int
all_fit(PyObject *obj, Py_ssize_t n, PyObject *(*item)(PyObject *, Py_ssize_t), struct left *left)
{
    if ((left->values -= n) < 0)
        return 0;
    for (Py_ssize_t i = 0; i < n; i++)
        if (!fits(item(obj, i), left))
            return 0;
    return 1;
}

/* Return whether an object is simple and fits into what is left, and take it from there. Runs no
   code of users and sets no error. */
static int
fits(PyObject *obj, struct left *left)
{
    Py_ssize_t n;
    if (obj == Py_None || obj == Py_True || obj == Py_False)
        n = 1;
    else if (PyUnicode_CheckExact(obj)) {
        if (PyUnicode_GetLength(obj) > left->bytes)
            return 0;
        /* Made once for each string, and for the pickler, too. */
        if (PyUnicode_AsUTF8AndSize(obj, &n) == NULL) {
            PyErr_Clear(); /* lone surrogates */
            return 0;
        }
        n += around(n);
    }
    else if (PyFloat_CheckExact(obj))
        n = 9;
    else if (PyLong_CheckExact(obj)) {
        int overflow;
        PyLong_AsLongLongAndOverflow(obj, &overflow);
        if (overflow)
            return 0;
        n = 10;
    }
    else if (PyBytes_CheckExact(obj)) {
        n = PyBytes_Size(obj);
        n += around(n);
    }
    else if (PyByteArray_CheckExact(obj))
        n = PyByteArray_Size(obj) + around(PY_SSIZE_T_MAX);
    else if (PyTuple_CheckExact(obj)) {
        if (!all_fit(obj, PyTuple_Size(obj), PyTuple_GetItem, left))
            return 0;
        n = 3;
    }
    else if (PyList_CheckExact(obj)) {
        if (!all_fit(obj, PyList_Size(obj), PyList_GetItem, left))
            return 0;
        n = 4;
    }
    else if (PyDict_CheckExact(obj)) {
        Py_ssize_t at = 0;
        PyObject *key, *value;
        if ((left->values -= 2 * PyDict_Size(obj)) < 0)
            return 0;
        while (PyDict_Next(obj, &at, &key, &value))
            if (!fits(key, left) || !fits(value, left))
                return 0;
        n = 4;
    }
    else
        return 0;
    return (left->bytes -= n) >= 0;
}

/* Return the most bytes of a pickle, of the arguments of a function: an object, and that. -1 for an
   error. */
static Py_ssize_t
most_of(PyObject *const *args, Py_ssize_t count)
{
    if (count == 2)
        return PyLong_AsSsize_t(args[1]);
    PyErr_Format(PyExc_TypeError, "expected 2 arguments, got %zd", count);
    return -1;
}

/* Return whether an object is seen to be simple, and to have a pickle of at most so many bytes. */
static int
is_seen(PyObject *obj, Py_ssize_t most)
{
    struct left left = {most - ENDS, MOST_VALUES};
    return fits(obj, &left);
}

PyDoc_STRVAR(is_simple_doc, "is_simple(obj, most, /)\n--\n\n\
Return whether an object is seen to be simple, and to have a pickle of at most `most` bytes.");

static PyObject *
is_simple(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t most = most_of(args, count);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(is_seen(args[0], most));
}

/* Return the pickle of an object that is seen to be simple; None for others. */
static PyObject *
pickled(PyObject *obj, Py_ssize_t most)
{
    if (!is_seen(obj, most))
        return Py_NewRef(Py_None);
    /* At once: no other thread runs between, which could put into it what is not simple, and no
       finalizer, as the collector of Python up to 3.11 would run them when the pickler is made. */
    int collects = PyGC_Disable();
    PyObject *made = PyObject_CallFunctionObjArgs(dumps, obj, protocol, NULL);
    if (collects)
        PyGC_Enable();
    if (made == NULL && PyErr_ExceptionMatches(PyExc_RecursionError)) {
        PyErr_Clear(); /* whoever else pickles it says more */
        return Py_NewRef(Py_None);
    }
    return made;
}

PyDoc_STRVAR(simple_pickle_doc, "simple_pickle(obj, most, /)\n--\n\n\
Return the pickle of an object of which `is_simple` is true; None for others.");

static PyObject *
simple_pickle(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t most = most_of(args, count);
    return PyErr_Occurred() ? NULL : pickled(args[0], most);
}

/* ---- small pickles -------------------------------------------------------------------------- */

/* As `format` says. */
static const char SMALL_START[8] = "\x93" "FSX\x02\x06\0\0";
enum { SMALL_HEAD = 20 };

/* Bytes from which on a copy takes longer than a view. */
enum { VIEWED = 1 << 14 };

/* Return the pickle of a whole small object, whose section, if it has any, begins as that seen last;
   None for others. `crc32` is a function. */
static PyObject *
small_body(PyObject *whole, const char *data, Py_ssize_t nbytes, PyObject *crc32, PyObject *seen)
{
    const unsigned char *head = (const unsigned char *)data + sizeof SMALL_START;
    uint64_t wanted = number_of(head, 4), size = number_of(head + 4, 4);
    uint64_t total = number_of(head + 8, 4);
    if (total != (size_t)nbytes - SMALL_HEAD || size > total)
        return Py_NewRef(Py_None);
    if (size != total) {
        Py_ssize_t known = PyBytes_Size(seen);
        if (known <= 0 || (uint64_t)known > total - size ||
            memcmp(data + SMALL_HEAD + size, PyBytes_AsString(seen), (size_t)known) != 0)
            return Py_NewRef(Py_None);
    }
    PyObject *body;
    if (size < VIEWED)
        body = PyBytes_FromStringAndSize(data + SMALL_HEAD, (Py_ssize_t)size);
    else {
        Py_ssize_t end = SMALL_HEAD + (Py_ssize_t)size;
        PyObject *view = PyMemoryView_FromObject(whole);
        body = view == NULL ? NULL : PySequence_GetSlice(view, SMALL_HEAD, end);
        Py_XDECREF(view);
    }
    PyObject *start = PyLong_FromUnsignedLongLong(size);
    PyObject *crc = NULL;
    if (body != NULL && start != NULL)
        crc = PyObject_CallFunctionObjArgs(crc32, body, start, NULL);
    Py_XDECREF(start);
    unsigned long found = crc == NULL ? 0 : PyLong_AsUnsignedLong(crc);
    Py_XDECREF(crc);
    if (PyErr_Occurred())
        Py_CLEAR(body);
    else if (found != wanted) {
        Py_DECREF(body);
        return Py_NewRef(Py_None);
    }
    return body;
}

/* Return memory for a small object's head and what is behind it in one frame, and put the head there;
   NULL for an error, which may be older. */
static PyObject *
headed(PyObject *crc, uint64_t size, uint64_t total, Py_ssize_t behind)
{
    unsigned long number = crc == NULL || PyErr_Occurred() ? 0 : PyLong_AsUnsignedLong(crc);
    if (PyErr_Occurred())
        return NULL;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, SMALL_HEAD + behind);
    if (frame != NULL) {
        char *at = PyBytes_AsString(frame); /* nobody else has seen it */
        memcpy(at, SMALL_START, sizeof SMALL_START);
        at = put_number(at + sizeof SMALL_START, number, 4);
        put_number(put_number(at, size, 4), total, 4);
    }
    return frame;
}

PyDoc_STRVAR(small_frame_doc, "small_frame(body, crc32, section=b'', /)\n--\n\n\
Return a pickle and the section of the script as the one frame of a small object.");

static PyObject *
small_frame(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    int has_section = count == 3;
    if ((count != 2 && !has_section) || !PyBytes_CheckExact(args[0]) ||
        (has_section && !PyBytes_CheckExact(args[2]))) {
        PyErr_SetString(PyExc_TypeError, "small_frame takes bytes, a function and bytes");
        return NULL;
    }
    Py_ssize_t nbytes = PyBytes_Size(args[0]), more = has_section ? PyBytes_Size(args[2]) : 0;
    PyObject *size = PyLong_FromSsize_t(nbytes), *crc = NULL;
    if (size != NULL)
        crc = PyObject_CallFunctionObjArgs(args[1], args[0], size, NULL);
    PyObject *frame = headed(crc, (uint64_t)nbytes, (uint64_t)(nbytes + more), nbytes + more);
    if (frame != NULL) {
        char *at = PyBytes_AsString(frame) + SMALL_HEAD;
        memcpy(at, PyBytes_AsString(args[0]), (size_t)nbytes);
        if (has_section)
            memcpy(at + nbytes, PyBytes_AsString(args[2]), (size_t)more);
    }
    Py_XDECREF(crc);
    Py_XDECREF(size);
    return frame;
}

/* A first piece of fewer bytes is copied behind the head: one frame less. */
enum { JOINED_UP_TO = 1 << 14 };

PyDoc_STRVAR(small_frames_doc, "small_frames(pieces, section, crc32, /)\n--\n\n\
Return the frames of a pickle in pieces, a list, and of the section, as a small object.");

static PyObject *
small_frames(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *pieces, *section, *crc32;
    if (!PyArg_ParseTuple(args, "O!O!O", &PyList_Type, &pieces, &PyBytes_Type, &section, &crc32))
        return NULL;
    Py_ssize_t count = PyList_Size(pieces), size = 0;
    for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++)
        size += PyObject_Size(PyList_GetItem(pieces, i));
    PyObject *crc = PyErr_Occurred() ? NULL : PyLong_FromSsize_t(size);
    for (Py_ssize_t i = 0; crc != NULL && i < count; i++) {
        PyObject *before = crc;
        crc = PyObject_CallFunctionObjArgs(crc32, PyList_GetItem(pieces, i), before, NULL);
        Py_DECREF(before);
    }
    PyObject *first = count ? PyList_GetItem(pieces, 0) : NULL, *frames = NULL;
    Py_ssize_t behind = 0, more = PyBytes_Size(section);
    if (first != NULL && PyBytes_CheckExact(first) && PyBytes_Size(first) < JOINED_UP_TO)
        behind = PyBytes_Size(first);
    PyObject *head = headed(crc, (uint64_t)size, (uint64_t)(size + more), behind);
    Py_XDECREF(crc);
    if (head != NULL && behind)
        memcpy(PyBytes_AsString(head) + SMALL_HEAD, PyBytes_AsString(first), (size_t)behind);
    if (head != NULL)
        frames = PyList_GetSlice(pieces, behind ? 1 : 0, count);
    if (frames != NULL &&
        (PyList_Insert(frames, 0, head) < 0 || (more && PyList_Append(frames, section) < 0)))
        Py_CLEAR(frames);
    Py_XDECREF(head);
    return frames;
}

/* ---- names in pickles ----------------------------------------------------------------------- */

/* To look for a name in more takes longer than to load by an unpickler that asks about each. */
enum { SEARCHED_UP_TO = 1 << 17 };

/* Return whether a pickle may have a name in it, which is in UTF-8. */
static int
has_name(const char *body, Py_ssize_t nbytes, const char *name, Py_ssize_t length)
{
    return nbytes > SEARCHED_UP_TO || memmem(body, (size_t)nbytes, name, (size_t)length) != NULL;
}

PyDoc_STRVAR(may_name_doc, "may_name(body, name, /)\n--\n\n\
Return whether a pickle may have a name in it, which is in UTF-8.");

static PyObject *
may_name(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer body, name;
    if (!PyArg_ParseTuple(args, "y*y*", &body, &name))
        return NULL;
    int may = has_name(body.buf, body.len, name.buf, name.len);
    PyBuffer_Release(&body);
    PyBuffer_Release(&name);
    return PyBool_FromLong(may);
}

/* ---- pickles with buffers ------------------------------------------------------------------- */

enum { HEAD = 32, CRC_AT = 28, ALIGNMENT = 64 };

/* Return the CRC of bytes, begun at that of others; NULL for an error, which may be older. */
static PyObject *
crc_of(PyObject *crc32, const char *data, Py_ssize_t nbytes, PyObject *begun)
{
    PyObject *bytes = PyErr_Occurred() ? NULL : PyBytes_FromStringAndSize(data, nbytes);
    PyObject *crc = bytes == NULL ? NULL : PyObject_CallFunctionObjArgs(crc32, bytes, begun, NULL);
    Py_XDECREF(bytes);
    return crc;
}

PyDoc_STRVAR(framed_doc, "framed(body, buffers, crc32, /)\n--\n\n\
Return the frames of a pickle and its buffers, bytes and a list of memoryviews of bytes.");

static PyObject *
framed(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *body, *buffers, *crc32;
    if (!PyArg_ParseTuple(args, "O!O!O", &PyBytes_Type, &body, &PyList_Type, &buffers, &crc32))
        return NULL;
    Py_ssize_t count = PyList_Size(buffers), size = PyBytes_Size(body);
    Py_ssize_t behind = HEAD + 8 * count + size;
    Py_ssize_t whole = count ? (behind + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT : behind;
    PyObject *first = PyBytes_FromStringAndSize(NULL, whole);
    PyObject *made = PyList_New(count ? 2 * count : 1);
    if (first == NULL || made == NULL)
        goto failed;
    PyList_SetItem(made, 0, Py_NewRef(first));
    /* Nobody else has seen it. */
    char *head = PyBytes_AsString(first);
    memset(head + behind, 0, (size_t)(whole - behind));
    memcpy(head + HEAD + 8 * count, PyBytes_AsString(body), (size_t)size);
    static const char zeros[ALIGNMENT];
    uint64_t end = (uint64_t)behind;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *data = PyList_GetItem(buffers, i);
        Py_ssize_t nbytes = PyObject_Size(data), padding = (Py_ssize_t)(-end & (ALIGNMENT - 1));
        if (nbytes < 0)
            goto failed;
        put_number(head + HEAD + 8 * i, (uint64_t)nbytes, 8);
        end += (uint64_t)padding + (uint64_t)nbytes;
        PyList_SetItem(made, 2 * i + 1, Py_NewRef(data));
        PyObject *before = i ? PyBytes_FromStringAndSize(zeros, padding) : NULL;
        if (before != NULL)
            PyList_SetItem(made, 2 * i, before);
        else if (i)
            goto failed;
    }
    memcpy(head, SMALL_START, 4);
    put_number(head + 4, 1, 4); /* version, kind, flags */
    put_number(head + 8, end, 8);
    put_number(head + 16, (uint64_t)size, 8);
    put_number(head + 24, (uint64_t)count, 4);
    PyObject *begun = crc_of(crc32, head, CRC_AT, NULL);
    PyObject *crc = crc_of(crc32, head + HEAD, behind - HEAD, begun);
    Py_XDECREF(begun);
    if (crc != NULL)
        put_number(head + CRC_AT, PyLong_AsUnsignedLong(crc), 4);
    Py_XDECREF(crc);
    if (!PyErr_Occurred()) {
        Py_DECREF(first);
        return made;
    }
failed:
    Py_XDECREF(first);
    Py_XDECREF(made);
    return NULL;
}

/* More of an object is parsed in Python: then its data take longer than that. */
enum { PARSED_UP_TO = 1 << 14 };

PyDoc_STRVAR(parsed_doc, "parsed(view, crc32, /)\n--\n\n\
Return the pickle and the buffers of a whole object of version 1, a memoryview of bytes; None for\n\
everything else.");

static PyObject *
parsed(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_buffer view;
    if (count != 2 || !PyMemoryView_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "parsed takes a memoryview and a function");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *made = NULL, *buffers = NULL, *proven = NULL, *crc = NULL;
    const unsigned char *head = view.buf;
    uint64_t nbytes = (uint64_t)view.len, n = 0, size = 0, end = 0;
    if (nbytes >= HEAD && memcmp(head, SMALL_START, 4) == 0 && number_of(head + 4, 4) == 1 &&
        number_of(head + 8, 8) == nbytes) {
        size = number_of(head + 16, 8);
        n = number_of(head + 24, 4);
        if (n < PARSED_UP_TO && size < PARSED_UP_TO)
            end = HEAD + 8 * n + size;
    }
    if (end == 0 || end > nbytes || end > PARSED_UP_TO) {
        made = Py_NewRef(Py_None);
        goto done;
    }
    /* What the CRC is of, as one. */
    proven = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(end - HEAD) + CRC_AT);
    if (proven == NULL)
        goto done;
    char *at = PyBytes_AsString(proven); /* nobody else has seen it */
    memcpy(at, head, CRC_AT);
    memcpy(at + CRC_AT, head + HEAD, (size_t)(end - HEAD));
    crc = PyObject_CallFunctionObjArgs(args[1], proven, NULL);
    unsigned long found = crc == NULL ? 0 : PyLong_AsUnsignedLong(crc);
    if (PyErr_Occurred())
        goto done;
    buffers = PyList_New((Py_ssize_t)n);
    int is_whole = buffers != NULL && found == number_of(head + CRC_AT, 4);
    for (uint64_t i = 0; is_whole && i < n; i++) {
        /* Of the copy, as the memory may be shared with a process that writes to it. */
        uint64_t length = number_of((unsigned char *)at + CRC_AT + 8 * i, 8);
        uint64_t start = (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        is_whole = start <= nbytes && length <= nbytes - start;
        if (!is_whole)
            break;
        end = start + length;
        PyObject *data = PySequence_GetSlice(args[0], (Py_ssize_t)start, (Py_ssize_t)end);
        if (data == NULL)
            goto done;
        PyList_SetItem(buffers, (Py_ssize_t)i, data);
    }
    if (is_whole && end == nbytes) {
        at += CRC_AT + 8 * n;
        PyObject *body = PyBytes_FromStringAndSize(at, (Py_ssize_t)size);
        if (body != NULL)
            made = PyTuple_Pack(2, body, buffers);
        Py_XDECREF(body);
    }
    else if (buffers != NULL)
        made = Py_NewRef(Py_None);
done:
    Py_XDECREF(crc);
    Py_XDECREF(proven);
    Py_XDECREF(buffers);
    PyBuffer_Release(&view);
    return made;
}

/* Objects of so many bytes have buffers of which some may be copied: see `pickling.unpinned`. */
enum { PINNED_FROM = 1 << 20 };

/* Return what `parsed` returns for such an object in bytes or a bytearray. */
static PyObject *
parsed_of(PyObject *whole, PyObject *crc32)
{
    PyObject *args[] = {PyMemoryView_FromObject(whole), crc32};
    PyObject *found = args[0] == NULL ? NULL : parsed(NULL, args, 2);
    Py_XDECREF(args[0]);
    return found;
}

/* Return the object of a pickle and its buffers, of which there may be none. */
static PyObject *
load(PyObject *body, PyObject *buffers)
{
    if (buffers == NULL)
        return PyObject_CallFunctionObjArgs(loads, body, NULL);
    PyObject *named = PyDict_New(), *args = PyTuple_Pack(1, body), *made = NULL;
    if (named != NULL && args != NULL && PyDict_SetItem(named, its_buffers, buffers) == 0)
        made = PyObject_Call(loads, args, named);
    Py_XDECREF(args);
    Py_XDECREF(named);
    return made;
}

PyDoc_STRVAR(loaded_doc, "loaded(buffer, crc32, seen, name, /)\n--\n\n\
Return the object of a whole pickle under 1 MiB in bytes or a bytearray, whose section, if it has\n\
any, begins as `seen`, and in which the name is not, unless that is empty.\n\
\n\
NotImplemented for everything else.");

/* Return whether a pickle cannot be loaded at once, as it may have a name in it that is not empty. */
static int
is_for_others(PyObject *body, PyObject *name)
{
    Py_buffer view;
    if (PyBytes_Size(name) == 0)
        return 0;
    if (PyObject_GetBuffer(body, &view, PyBUF_SIMPLE) < 0)
        return -1;
    int is = has_name(view.buf, view.len, PyBytes_AsString(name), PyBytes_Size(name));
    PyBuffer_Release(&view);
    return is;
}

static PyObject *
loaded(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyBytes_CheckExact(args[2]) || !PyBytes_CheckExact(args[3])) {
        PyErr_SetString(PyExc_TypeError, "loaded takes a buffer, a function, bytes and bytes");
        return NULL;
    }
    const char *data = NULL;
    Py_ssize_t nbytes = 0;
    if (PyBytes_CheckExact(args[0])) {
        data = PyBytes_AsString(args[0]);
        nbytes = PyBytes_Size(args[0]);
    }
    else if (PyByteArray_CheckExact(args[0])) {
        data = PyByteArray_AsString(args[0]);
        nbytes = PyByteArray_Size(args[0]);
    }
    PyObject *body = NULL, *buffers = NULL, *made = NULL;
    if (nbytes >= SMALL_HEAD && memcmp(data, SMALL_START, sizeof SMALL_START) == 0)
        body = small_body(args[0], data, nbytes, args[1], args[2]);
    else if (nbytes >= HEAD && nbytes < PINNED_FROM && memcmp(data, SMALL_START, 4) == 0 &&
             number_of((const unsigned char *)data + 4, 4) == 1) {
        body = parsed_of(args[0], args[1]);
        if (body != NULL && body != Py_None) {
            PyObject *both = body;
            body = Py_NewRef(PyTuple_GetItem(both, 0));
            buffers = Py_NewRef(PyTuple_GetItem(both, 1));
            Py_DECREF(both);
        }
    }
    else
        body = Py_NewRef(Py_None);
    int is = body == NULL ? -1 : body == Py_None ? 1 : is_for_others(body, args[3]);
    if (is >= 0)
        made = is ? Py_NewRef(Py_NotImplemented) : load(body, buffers);
    Py_XDECREF(buffers);
    Py_XDECREF(body);
    return made;
}

/* ---- picklers ------------------------------------------------------------------------------- */

/* Names of attributes. */
static PyObject *its_name, *its_dict, *its_more, *its_reduce, *its_getstate;

/* Return whether an object has all attributes of a tuple of names and values, NotImplemented for
   those that there must not be; -1 for an error. */
static int
has(PyObject *obj, PyObject *attributes)
{
    Py_ssize_t count = PyTuple_Size(attributes);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *each = PyTuple_GetItem(attributes, i);
        PyObject *name = PyTuple_GetItem(each, 0), *value = PyTuple_GetItem(each, 1);
        if (name == NULL || value == NULL)
            return -1;
        PyObject *own = PyObject_GetAttr(obj, name);
        if (own == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_AttributeError))
                return -1;
            PyErr_Clear();
            own = Py_NewRef(Py_NotImplemented);
        }
        Py_DECREF(own); /* `each` keeps what it is compared with */
        if (own != value)
            return 0;
    }
    return count < 0 ? -1 : 1;
}

PyDoc_STRVAR(has_attributes_doc, "has_attributes(obj, attributes, /)\n--\n\n\
Return whether an object has all attributes of a tuple of names and values.");

static PyObject *
has_attributes(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "has_attributes takes 2 arguments, not %zd", count);
        return NULL;
    }
    int is = has(args[0], args[1]);
    return is < 0 ? NULL : PyBool_FromLong(is);
}

/* What `asking` was given. */
static PyObject *how, *found, *decide, *named, *plain, *ways, *reducers, *newobj;

/* Return whether pickle finds a function or class by its name, for all that is known; -1 for an
   error. What is of the script is appended to the pickler's `more`. See `kinds`. */
static int
is_found(PyObject *pickler, PyObject *obj)
{
    PyObject *id = PyLong_FromVoidPtr(obj);
    if (id == NULL)
        return -1;
    PyObject *where = PyDict_GetItemWithError(found, id);
    Py_DECREF(id);
    if (where == NULL)
        return PyErr_Occurred() ? -1 : 0;
    Py_INCREF(where);
    int is = -1;
    PyObject *space = PyTuple_GetItem(where, 0), *name = PyTuple_GetItem(where, 1);
    PyObject *there = name == NULL ? NULL : PyObject_GetItem(space, name);
    PyObject *own = there == NULL ? NULL : PyObject_GetAttr(obj, its_name);
    if (own != NULL)
        is = there == obj ? PyObject_RichCompareBool(own, name, Py_EQ) : 0;
    else if (there == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
        is = 0;
    }
    if (is == 1 && PyTuple_GetItem(where, 2) == Py_True) {
        PyObject *more = PyObject_GetAttr(pickler, its_more);
        if (more == NULL || PyList_Append(more, obj) < 0)
            is = -1;
        Py_XDECREF(more);
    }
    Py_XDECREF(own);
    Py_XDECREF(there);
    Py_DECREF(where);
    return is;
}

/* Return the `__dict__` of an instance of a class that has attributes, if both are pickled as
   `object` does it; NULL for others, and for an error. */
static PyObject *
state_of(PyObject *obj, PyObject *attributes)
{
    PyObject *kind = (PyObject *)Py_TYPE(obj);
    int is = has(kind, attributes);
    if (is == 1)
        is = !PyDict_Contains(reducers, kind);
    PyObject *state = is == 1 ? PyObject_GetAttr(obj, its_dict) : NULL;
    if (state == NULL)
        return NULL;
    int has_own = PySequence_Contains(state, its_reduce);
    if (has_own == 0)
        has_own = PySequence_Contains(state, its_getstate);
    if (has_own)
        Py_CLEAR(state);
    return state;
}

/* Reduce a plain instance. See `instances.reduce_plain`. */
static PyObject *
reduce_plain(PyObject *obj)
{
    PyObject *state = state_of(obj, ways);
    if (state == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_NotImplemented);
    PyObject *reduced = NULL;
    int is_empty = PyObject_Not(state);
    PyObject *arguments = is_empty < 0 ? NULL : PyTuple_Pack(1, (PyObject *)Py_TYPE(obj));
    if (arguments != NULL)
        reduced = PyTuple_Pack(3, newobj, arguments, is_empty ? Py_None : state);
    Py_XDECREF(arguments);
    Py_DECREF(state);
    return reduced;
}

/* Return whether a module that is imported has an object under a name; -1 for an error. */
static int
is_in(PyObject *module_name, PyObject *name, PyObject *obj)
{
    /* Not PyImport_GetModule, which asks the module whether it is being imported. */
    PyObject *module = PyDict_GetItemWithError(PyImport_GetModuleDict(), module_name);
    Py_XINCREF(module); /* whose `__getattr__` may remove it */
    PyObject *there = module == NULL ? NULL : PyObject_GetAttr(module, name);
    Py_XDECREF(module);
    Py_XDECREF(there);
    if (there == NULL && PyErr_ExceptionMatches(PyExc_AttributeError))
        PyErr_Clear();
    return PyErr_Occurred() ? -1 : there == obj;
}

/* As in `instances`: the fields of a `Plain`, and the most bytes of the attributes' pickle, between
   whose ends these are. */
enum { START, NAMES, ATTRIBUTES, OF_SCRIPT, SHORT = 1 << 14, BEFORE = 2, AFTER = 1 };

PyDoc_STRVAR(pickle_of_plain_doc, "pickle_of_plain(obj, plain, /)\n--\n\n\
Return the pickle of a plain instance with simple attributes; None for others.");

static PyObject *
pickle_of_plain(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyTuple_Check(args[1]) || PyTuple_Size(args[1]) <= OF_SCRIPT) {
        PyErr_SetString(PyExc_TypeError, "pickle_of_plain takes an object and a Plain");
        return NULL;
    }
    PyObject *start = PyTuple_GetItem(args[1], START), *names = PyTuple_GetItem(args[1], NAMES);
    PyObject *state = state_of(args[0], PyTuple_GetItem(args[1], ATTRIBUTES));
    PyObject *body = NULL, *made = NULL;
    if (state != NULL && PyObject_IsTrue(state) == 1 &&
        is_in(PyTuple_GetItem(names, 0), PyTuple_GetItem(names, 1),
              (PyObject *)Py_TYPE(args[0])) == 1)
        body = pickled(state, SHORT);
    Py_XDECREF(state);
    if (body == NULL || body == Py_None)
        return PyErr_Occurred() ? NULL : body ? body : Py_NewRef(Py_None);
    static const char end[] = {'b', '.'};
    Py_ssize_t before = PyBytes_Size(start), size = PyBytes_Size(body) - BEFORE - AFTER;
    made = PyBytes_FromStringAndSize(NULL, before + size + (Py_ssize_t)sizeof end);
    if (made != NULL) {
        char *at = PyBytes_AsString(made); /* nobody else has seen it */
        memcpy(at, PyBytes_AsString(start), (size_t)before);
        memcpy(at + before, PyBytes_AsString(body) + BEFORE, (size_t)size);
        memcpy(at + before + size, end, sizeof end);
    }
    Py_DECREF(body);
    return made;
}

static PyObject *
reducer_override(PyObject *pickler, PyObject *obj)
{
    PyObject *kind = (PyObject *)Py_TYPE(obj);
    PyObject *chosen = PyDict_GetItemWithError(how, kind);
    if (chosen != NULL)
        Py_INCREF(chosen);
    else if (PyErr_Occurred() ||
             (chosen = PyObject_CallFunctionObjArgs(decide, kind, NULL)) == NULL)
        return NULL;
    PyObject *reduced = NULL;
    if (chosen == plain)
        reduced = reduce_plain(obj);
    else {
        int is = chosen == Py_None;
        if (chosen == named)
            is = is_found(pickler, obj);
        if (is == 1)
            reduced = Py_NewRef(Py_NotImplemented);
        else if (is == 0)
            reduced = PyObject_CallFunctionObjArgs(chosen, pickler, obj, NULL);
    }
    Py_DECREF(chosen);
    return reduced;
}

static PyMethodDef of_asking[] = {
    {"reducer_override", reducer_override, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {{Py_tp_methods, of_asking}, {0, NULL}};

static PyType_Spec spec = {
    .name = "fsexchange.serialize._native.Asking",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

PyDoc_STRVAR(asking_doc,
             "asking(base, how, found, decide, named, plain, ways, reducers, newobj, /)\n--\n\n\
Return the class of picklers, derived from `base`, that ask the tables of `kinds`. Call it once.");

static PyObject *
asking(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *base;
    PyObject **given[] = {&how, &found, &decide, &named, &plain, &ways, &reducers, &newobj};
    enum { COUNT = sizeof given / sizeof *given };
    PyObject *values[COUNT];
    if (!PyArg_ParseTuple(args, "OO!O!OOOO!O!O", &base, &PyDict_Type, &values[0], &PyDict_Type,
                          &values[1], &values[2], &values[3], &values[4], &PyTuple_Type,
                          &values[5], &PyDict_Type, &values[6], &values[7]))
        return NULL;
    PyObject *bases = PyTuple_Pack(1, base);
    if (bases == NULL)
        return NULL;
    PyObject *made = PyType_FromSpecWithBases(&spec, bases);
    Py_DECREF(bases);
    for (int i = 0; made != NULL && i < COUNT; i++) {
        PyObject *before = *given[i];
        *given[i] = Py_NewRef(values[i]);
        Py_XDECREF(before);
    }
    return made;
}

/* As in `pickling`: a pickler, its `dump` and `clear_memo`, its `pieces` and `more`, and whether its
   memo has grown. */
enum { PICKLER, DUMP, CLEAR_MEMO, PIECES, MORE, GROWN };

/* As in `pickling`, bytes from which on a value is a piece; and the most pieces of a small pickle. */
enum { LONG_FROM = 1 << 16, FEW = 8 };

/* Return whether a piece of so many bytes is one value, as `pickling._opcode` does. */
static int
is_value(PyObject *before, Py_ssize_t nbytes)
{
    if (!PyBytes_CheckExact(before))
        return 0;
    const unsigned char *end = (unsigned char *)PyBytes_AsString(before) + PyBytes_Size(before);
    Py_ssize_t size = PyBytes_Size(before);
    if (size >= 5 && (end[-5] == 'B' || end[-5] == 'X') && number_of(end - 4, 4) == (size_t)nbytes)
        return 1;
    return size >= 9 && (end[-9] == 0x8e || end[-9] == 0x8d || end[-9] == 0x96) &&
           number_of(end - 8, 8) == (size_t)nbytes;
}

static int
is_buffer(PyObject *left_out)
{
    return PyMemoryView_Check(left_out);
}

/* Return the buffers among what a pickle leaves out, or the others. */
static PyObject *
those_of(PyObject *more, int are_buffers)
{
    PyObject *those = PyList_New(0);
    for (Py_ssize_t i = 0; those != NULL && i < PyList_Size(more); i++) {
        PyObject *each = PyList_GetItem(more, i);
        if (is_buffer(each) == are_buffers && PyList_Append(those, each) < 0)
            Py_CLEAR(those);
    }
    return those;
}

PyDoc_STRVAR(dump_small_doc, "dump_small(taken, obj, small, memo, /)\n--\n\n\
Return the pickle of an object by a pickler that was taken, which is then as good as new: one in\n\
several pieces, with buffers, or that names classes of the script, as `Made`.\n\
\n\
None for one of more than `small` bytes of opcodes, for one that names what else is of the script, or\n\
for which the memo, which holds what has `memo` bytes without growing, is to be made anew; then the\n\
pickler has it.");

static PyObject *
dump_small(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyList_Check(args[0]) || PyList_Size(args[0]) != GROWN + 1) {
        PyErr_SetString(PyExc_TypeError, "dump_small takes a pickler, an object and two numbers");
        return NULL;
    }
    PyObject *taken = args[0];
    Py_ssize_t small = PyLong_AsSsize_t(args[2]), memo = PyLong_AsSsize_t(args[3]);
    PyObject *done = NULL;
    if (!PyErr_Occurred())
        done = PyObject_CallFunctionObjArgs(PyList_GetItem(taken, DUMP), args[1], NULL);
    if (done == NULL)
        return NULL;
    Py_DECREF(done);
    PyObject *pieces = PyList_GetItem(taken, PIECES), *more = PyList_GetItem(taken, MORE);
    Py_ssize_t left_out = PyList_Size(more), few = PyList_Size(pieces), opcodes = 0;
    int is_small = few && few <= FEW, was_value = 1; /* before the first there are no opcodes */
    for (Py_ssize_t i = 0; i < left_out; i++)
        is_small = is_small && (is_buffer(PyList_GetItem(more, i)) ||
                                Py_IS_TYPE(PyList_GetItem(more, i), &PyType_Type));
    for (Py_ssize_t i = 0; is_small && i < few; i++) {
        PyObject *piece = PyList_GetItem(pieces, i);
        Py_ssize_t size = PyObject_Size(piece);
        /* What ends a value is the user's, and may look like an opcode. */
        was_value = !was_value && size >= LONG_FROM && is_value(PyList_GetItem(pieces, i - 1), size);
        if (!was_value)
            opcodes += size;
        is_small = few > 1 || PyBytes_CheckExact(piece);
    }
    is_small = is_small && opcodes <= small;
    if (PyErr_Occurred())
        return NULL;
    if (!is_small || (opcodes <= memo && PyList_GetItem(taken, GROWN) == Py_True))
        return Py_NewRef(Py_None);
    PyObject *made = few > 1 || left_out
                         ? Py_BuildValue("NNN", PyList_GetSlice(pieces, 0, few),
                                         those_of(more, 1), those_of(more, 0))
                         : Py_NewRef(PyList_GetItem(pieces, 0));
    if (made != NULL && PyList_SetSlice(pieces, 0, few, NULL) == 0 &&
        PyList_SetSlice(more, 0, left_out, NULL) == 0 &&
        PyList_SetItem(taken, GROWN, PyBool_FromLong(opcodes > memo)) == 0)
        Py_XDECREF(PyObject_CallFunctionObjArgs(PyList_GetItem(taken, CLEAR_MEMO), NULL));
    if (PyErr_Occurred())
        Py_CLEAR(made);
    return made;
}

/* What `dumper` was given. */
enum { IDLE, INSTANCES, CRC, MOST, SMALL, MEMO };

static PyObject *
dump(PyObject *given, PyObject *obj)
{
    PyObject *kind = (PyObject *)Py_TYPE(obj), *idle = PyTuple_GetItem(given, IDLE);
    if (kind == ndarray || PyMemoryView_Check(obj))
        return Py_NewRef(Py_None);
    PyObject *made = pickled(obj, PyLong_AsSsize_t(PyTuple_GetItem(given, MOST)));
    if (made == Py_None && !PyUnicode_CheckExact(obj) && !PyBytes_CheckExact(obj) &&
        !PyByteArray_CheckExact(obj)) {
        PyObject *known = PyDict_GetItemWithError(PyTuple_GetItem(given, INSTANCES), kind);
        if (known != NULL) {
            PyObject *args[] = {obj, Py_NewRef(known)}; /* else a handler might clear that dict */
            Py_DECREF(made);
            made = pickle_of_plain(NULL, args, 2);
            int is_of_script = PyTuple_GetItem(known, OF_SCRIPT) == Py_True;
            Py_DECREF(known);
            if (made != NULL && made != Py_None && is_of_script)
                return Py_BuildValue("[N]()(O)", made, kind);
        }
        else if (PyErr_Occurred()) /* the class has no hash */
            Py_CLEAR(made);
        Py_ssize_t count = PyList_Size(idle);
        if (made == Py_None && count) {
            PyObject *taken = Py_NewRef(PyList_GetItem(idle, count - 1));
            PyObject *args[] = {taken, obj, PyTuple_GetItem(given, SMALL),
                                PyTuple_GetItem(given, MEMO)};
            Py_DECREF(made);
            made = PyList_SetSlice(idle, count - 1, count, NULL) < 0
                       ? NULL
                       : dump_small(NULL, args, 4);
            if (made == Py_None) {
                Py_DECREF(made);
                return taken;
            }
            if (made != NULL && PyList_Append(idle, taken) < 0)
                Py_CLEAR(made);
            Py_DECREF(taken);
        }
    }
    if (made == NULL || !PyBytes_CheckExact(made))
        return made;
    PyObject *args[] = {made, PyTuple_GetItem(given, CRC)};
    PyObject *frame = small_frame(NULL, args, 2);
    Py_DECREF(made);
    return frame;
}

static PyMethodDef of_dumper = {"dump", dump, METH_O, NULL};

PyDoc_STRVAR(dumper_doc, "dumper(idle, instances, crc32, most, small, memo, /)\n--\n\n\
Return a function that returns the frame of an object whose pickle is small; `Made` for one whose\n\
pickle is more than that; the pickler that it took out, if that has a pickle of another kind; None\n\
for what is not to be pickled, and where no pickler is idle.");

static PyObject *
dumper(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *idle, *instances, *crc32;
    Py_ssize_t most, small, memo;
    if (!PyArg_ParseTuple(args, "O!O!Onnn", &PyList_Type, &idle, &PyDict_Type, &instances, &crc32,
                          &most, &small, &memo))
        return NULL;
    return PyCFunction_NewEx(&of_dumper, args, NULL);
}

/* ---- buffers -------------------------------------------------------------------------------- */

static PyObject *its_raw;

/* Called by a pickler with each PickleBuffer. */
static PyObject *
keep(PyObject *given, PyObject *buffer)
{
    PyObject *data = PyObject_CallMethodObjArgs(buffer, its_raw, NULL);
    if (data == NULL)
        return NULL;
    Py_ssize_t least = PyLong_AsSsize_t(PyTuple_GetItem(given, 1));
    Py_ssize_t nbytes = PyObject_Size(data);
    int is_out = !PyErr_Occurred() && nbytes >= least;
    if (is_out)
        PyList_Append(PyTuple_GetItem(given, 0), data);
    Py_DECREF(data);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(!is_out);
}

static PyMethodDef of_keeper = {"keep", keep, METH_O, NULL};

PyDoc_STRVAR(keeper_doc, "keeper(into, least, /)\n--\n\n\
Return a pickler's buffer callback: it leaves buffers of `least` bytes out, and appends them to a\n\
list.");

static PyObject *
keeper(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *into;
    Py_ssize_t least;
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &into, &least))
        return NULL;
    return PyCFunction_NewEx(&of_keeper, args, NULL);
}

/* ---- arrays --------------------------------------------------------------------------------- */

/* pickle.PickleBuffer, "C", 0, and names of attributes. */
static PyObject *pickle_buffer, *c_order, *nothing;
static PyObject *its_dtype, *its_isbuiltin, *its_char, *its_hasobject, *its_isnative, *its_flags,
    *its_c_contiguous, *its_writeable, *its_nbytes, *its_shape, *its_hardmask, *its_mask;

/* Return whether an attribute is true; -1 for an error. */
static int
is_true(PyObject *obj, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(obj, name);
    int is = value == NULL ? -1 : PyObject_IsTrue(value);
    Py_XDECREF(value);
    return is;
}

/* Return an attribute that is a number; -1 for an error. */
static Py_ssize_t
number(PyObject *obj, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(obj, name);
    Py_ssize_t found = value == NULL ? -1 : PyLong_AsSsize_t(value);
    Py_XDECREF(value);
    return found;
}

/* Return the name of a dtype that is built in, if it is in a dict of characters and names; else NULL,
   as for an error. */
static PyObject *
name_of(PyObject *dtype, PyObject *natives)
{
    if (number(dtype, its_isbuiltin) != 1)
        return NULL;
    PyObject *letter = PyObject_GetAttr(dtype, its_char);
    PyObject *name = letter == NULL ? NULL : PyDict_GetItemWithError(natives, letter);
    Py_XDECREF(letter);
    return name;
}

/* What `array_reducer` was given. */
enum { LOAD, OTHERWISE, NATIVES, MASKED, COPIED, SUBCLASSES };

/* Return how an array of a dtype of this name is reduced. */
static PyObject *
as_memory(PyObject *obj, PyObject *dtype_name, PyObject *given)
{
    PyObject *data = NULL, *arguments = NULL, *made = NULL;
    PyObject *shape = PyObject_GetAttr(obj, its_shape);
    Py_ssize_t nbytes = shape == NULL ? -1 : number(obj, its_nbytes);
    Py_buffer view;
    if (nbytes >= PyLong_AsSsize_t(PyTuple_GetItem(given, COPIED)))
        data = PyObject_CallFunctionObjArgs(pickle_buffer, obj, NULL);
    else if (nbytes >= 0 && PyObject_GetBuffer(obj, &view, PyBUF_SIMPLE) == 0) {
        data = PyByteArray_FromStringAndSize(view.buf, view.len);
        PyBuffer_Release(&view);
    }
    if (data != NULL)
        arguments = PyTuple_Pack(4, data, dtype_name, shape, c_order);
    if (arguments != NULL)
        made = PyTuple_Pack(2, PyTuple_GetItem(given, LOAD), arguments);
    Py_XDECREF(arguments);
    Py_XDECREF(data);
    Py_XDECREF(shape);
    return made;
}

/* Return an attribute; NULL if there is none, and for an error. */
static PyObject *
attribute(PyObject *obj, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(obj, name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError))
        PyErr_Clear();
    return value;
}

/* Return whether a masked array loses nothing by pickle: its mask is not hard, and there is one; -1
   for an error, of another class with that name. */
static int
is_plainly_masked(PyObject *obj)
{
    PyObject *hard = attribute(obj, its_hardmask);
    PyObject *mask = hard == Py_False ? attribute(obj, its_mask) : NULL;
    int is = mask != NULL && (PyObject *)Py_TYPE(mask) == ndarray;
    Py_XDECREF(hard);
    Py_XDECREF(mask);
    return PyErr_Occurred() ? -1 : is;
}

/* Return whether pickle itself reduces an array, as far as few questions tell; -1 for an error. */
static int
is_left_to_pickle(PyObject *obj, PyObject *dtype, PyObject *given)
{
    PyObject *kind = (PyObject *)Py_TYPE(obj);
    int is = is_true(dtype, its_hasobject);
    if (is || kind == ndarray)
        return is;
    /* Of a subclass, the small ones. */
    PyObject *name = PyObject_GetAttr(kind, its_name);
    int is_masked =
        name == NULL ? -1 : PyObject_RichCompareBool(name, PyTuple_GetItem(given, MASKED), Py_EQ);
    Py_XDECREF(name);
    is = is_masked == 1 ? is_plainly_masked(obj) : is_masked < 0 ? -1 : 1;
    if (is == 1) { /* whatever number its class says */
        PyObject *least = PyTuple_GetItem(given, is_masked ? COPIED : SUBCLASSES);
        PyObject *nbytes = PyObject_GetAttr(obj, its_nbytes);
        is = nbytes == NULL ? -1 : PyObject_RichCompareBool(nbytes, least, Py_LT);
        Py_XDECREF(nbytes);
    }
    return is == 1 ? is_true(dtype, its_isnative) : is;
}

static PyObject *
reduce_array(PyObject *given, PyObject *args)
{
    PyObject *pickler, *obj, *made = NULL, *dtype_name = NULL;
    if (!PyArg_ParseTuple(args, "OO", &pickler, &obj))
        return NULL;
    PyObject *dtype = PyObject_GetAttr(obj, its_dtype);
    if (dtype != NULL && (PyObject *)Py_TYPE(obj) == ndarray)
        dtype_name = name_of(dtype, PyTuple_GetItem(given, NATIVES));
    int is = 0;
    if (dtype_name != NULL) {
        PyObject *flags = PyObject_GetAttr(obj, its_flags);
        if (flags != NULL && (is = is_true(flags, its_c_contiguous)) == 1)
            is = is_true(flags, its_writeable);
        Py_XDECREF(flags);
        if (is == 1)
            made = as_memory(obj, dtype_name, given);
    }
    else if (!PyErr_Occurred() && (is = is_left_to_pickle(obj, dtype, given)) == 1)
        made = Py_NewRef(Py_NotImplemented);
    if (is == 0 && !PyErr_Occurred())
        made = PyObject_Call(PyTuple_GetItem(given, OTHERWISE), args, NULL);
    Py_XDECREF(dtype);
    return made;
}

static PyMethodDef of_array_reducer = {"reduce_array", reduce_array, METH_VARARGS, NULL};

PyDoc_STRVAR(array_reducer_doc,
             "array_reducer(load, otherwise, natives, masked, copied, subclasses, /)\n--\n\n\
Return what does as `otherwise`, `subclasses.reduce_array`, in less time for most arrays.\n\
\n\
What makes an array again; names of dtypes by their characters; the name of the class of masked\n\
arrays; the bytes from which arrays are not copied, and those of subclasses not left to pickle.");

static PyObject *
array_reducer(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *load, *otherwise, *natives, *masked;
    Py_ssize_t copied, subclasses;
    if (!PyArg_ParseTuple(args, "OOO!Unn", &load, &otherwise, &PyDict_Type, &natives,
                          &masked, &copied, &subclasses))
        return NULL;
    return PyCFunction_NewEx(&of_array_reducer, args, NULL);
}

/* numpy.dtype; names of dtypes that arrays had -> these. */
static PyObject *dtype_type, *dtypes;
enum { MOST_DTYPES = 64 };

PyDoc_STRVAR(load_array_doc, "_ndarray(data, dtype, shape, order, /)\n--\n\n\
Return the array whose elements some memory holds.");

static PyObject *
load_array(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_Format(PyExc_TypeError, "_ndarray takes 4 arguments, not %zd", count);
        return NULL;
    }
    PyObject *dtype = args[1];
    Py_INCREF(dtype);
    if (PyUnicode_CheckExact(dtype)) { /* which numpy would parse each time */
        PyObject *known = PyDict_GetItemWithError(dtypes, dtype);
        if (known != NULL)
            Py_INCREF(known);
        else if (!PyErr_Occurred() &&
                 (known = PyObject_CallFunctionObjArgs(dtype_type, dtype, NULL)) != NULL &&
                 PyDict_Size(dtypes) < MOST_DTYPES && PyDict_SetItem(dtypes, dtype, known) < 0)
            Py_CLEAR(known);
        Py_DECREF(dtype);
        dtype = known;
    }
    PyObject *made = NULL;
    if (dtype != NULL)
        made = PyObject_CallFunctionObjArgs(ndarray, args[2], dtype, args[0], nothing, Py_None,
                                            args[3], NULL);
    Py_XDECREF(dtype);
    return made;
}

/* ---- copies --------------------------------------------------------------------------------- */

PyDoc_STRVAR(copied_to_new_doc, "copied_to_new(kind, data, /)\n--\n\n\
Return `kind(data)`, of bytes or bytearray: its memory is asked for before it is written to.");

static PyObject *
copied_to_new(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *kind, *data, *copy;
    Py_buffer from;
    if (!PyArg_ParseTuple(args, "OO", &kind, &data) ||
        PyObject_GetBuffer(data, &from, PyBUF_SIMPLE) < 0)
        return NULL;
    int is_bytes = kind == (PyObject *)&PyBytes_Type;
    copy = is_bytes ? PyBytes_FromStringAndSize(NULL, from.len)
                    : PyByteArray_FromStringAndSize(NULL, from.len);
    if (copy != NULL) /* with the GIL: beside a busy thread to get it again takes 5 ms */
        copy_to(is_bytes ? PyBytes_AsString(copy) : PyByteArray_AsString(copy), from.buf,
                (uint64_t)from.len);
    PyBuffer_Release(&from);
    return copy;
}

/* ---- the module ----------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"cleaning", cleaning, METH_O, cleaning_doc},
    {"is_simple", (PyCFunction)(void (*)(void))is_simple, METH_FASTCALL, is_simple_doc},
    {"simple_pickle", (PyCFunction)(void (*)(void))simple_pickle, METH_FASTCALL,
     simple_pickle_doc},
    {"small_frame", (PyCFunction)(void (*)(void))small_frame, METH_FASTCALL, small_frame_doc},
    {"small_frames", small_frames, METH_VARARGS, small_frames_doc},
    {"framed", framed, METH_VARARGS, framed_doc},
    {"parsed", (PyCFunction)(void (*)(void))parsed, METH_FASTCALL, parsed_doc},
    {"loaded", (PyCFunction)(void (*)(void))loaded, METH_FASTCALL, loaded_doc},
    {"may_name", may_name, METH_VARARGS, may_name_doc},
    {"has_attributes", (PyCFunction)(void (*)(void))has_attributes, METH_FASTCALL,
     has_attributes_doc},
    {"pickle_of_plain", (PyCFunction)(void (*)(void))pickle_of_plain, METH_FASTCALL,
     pickle_of_plain_doc},
    {"asking", asking, METH_VARARGS, asking_doc},
    {"dump_small", (PyCFunction)(void (*)(void))dump_small, METH_FASTCALL, dump_small_doc},
    {"dumper", dumper, METH_VARARGS, dumper_doc},
    {"keeper", keeper, METH_VARARGS, keeper_doc},
    {"array_reducer", array_reducer, METH_VARARGS, array_reducer_doc},
    {"_ndarray", (PyCFunction)(void (*)(void))load_array, METH_FASTCALL, load_array_doc},
    {"copied_to_new", copied_to_new, METH_VARARGS, copied_to_new_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fsexchange.serialize._native",
    .m_size = -1,
    .m_methods = functions,
};

static PyObject *
attribute_of(const char *module, const char *name)
{
    PyObject *imported = PyImport_ImportModule(module);
    PyObject *found = imported == NULL ? NULL : PyObject_GetAttrString(imported, name);
    Py_XDECREF(imported);
    return found;
}

PyMODINIT_FUNC
PyInit__native(void)
{
    its_name = PyUnicode_InternFromString("__name__");
    its_dict = PyUnicode_InternFromString("__dict__");
    its_more = PyUnicode_InternFromString("more");
    its_reduce = PyUnicode_InternFromString("__reduce_ex__");
    its_raw = PyUnicode_InternFromString("raw");
    its_getstate = PyUnicode_InternFromString("__getstate__");
    protocol = PyLong_FromLong(5);
    its_dtype = PyUnicode_InternFromString("dtype");
    its_isbuiltin = PyUnicode_InternFromString("isbuiltin");
    its_char = PyUnicode_InternFromString("char");
    its_hasobject = PyUnicode_InternFromString("hasobject");
    its_isnative = PyUnicode_InternFromString("isnative");
    its_flags = PyUnicode_InternFromString("flags");
    its_c_contiguous = PyUnicode_InternFromString("c_contiguous");
    its_writeable = PyUnicode_InternFromString("writeable");
    its_nbytes = PyUnicode_InternFromString("nbytes");
    its_shape = PyUnicode_InternFromString("shape");
    its_hardmask = PyUnicode_InternFromString("_hardmask");
    its_mask = PyUnicode_InternFromString("_mask");
    c_order = PyUnicode_InternFromString("C");
    nothing = PyLong_FromLong(0);
    its_buffers = PyUnicode_InternFromString("buffers");
    dumps = attribute_of("pickle", "dumps");
    loads = attribute_of("pickle", "loads");
    pickle_buffer = attribute_of("pickle", "PickleBuffer");
    ndarray = attribute_of("numpy", "ndarray");
    dtype_type = attribute_of("numpy", "dtype");
    dtypes = PyDict_New();
    return PyErr_Occurred() ? NULL : PyModule_Create(&definition);
}
