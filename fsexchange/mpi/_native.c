/* Bodies through a slab: see `slab`, which says what a record and a slot are.

   Memory that one core has just written is slow to read for another, most of all where the two
   share no cache: what is in the first one's must be fetched from there. So the sender's stores go
   past its caches, and the receiver asks for what it will read soon.

   Only what CPython's limited API of 3.11 has is used, so that one file serves all later versions,
   and 3.10: that has the buffer protocol in the same form, but did not promise to keep it. No
   Py_RETURN_NONE: as headers from 3.12 on have it, it takes no reference, which 3.10 needs. */

#include <patchlevel.h>
#if PY_VERSION_HEX >= 0x030b0000
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

#include <sched.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* As `slab` has them: bytes of a slot, and where in a record the slot of each piece is. */
enum { SLOT = 1 << 16, PIECES = 256 };

enum {
    LINE = 64,       /* bytes of a cache's line */
    AHEAD = 8,       /* lines: as good as 32; without them reading takes two to three times as long */
    STREAMED = 4096, /* bytes, from which on stores go past the cache */
    WIDE = 8 << 20,  /* bytes of a body, from which on its receiver's do, too */
    LOOKS = 100,     /* at whether the next piece is ready */
};

/* As `bodies` has it: a body has no more buffers. */
enum { BUFFERS = 64 };

/* A buffer of a body, and where in it that starts. */
struct part {
    Py_buffer buffer;
    uint64_t start;
};

/* Copy to the start of a line, past this core's caches if `past`. */
static inline void
copy(char *into, const char *from, size_t nbytes, int past)
{
    for (; nbytes >= LINE; nbytes -= LINE, into += LINE, from += LINE) {
        __builtin_prefetch(from + AHEAD * LINE, 0, 0);
#ifdef __SSE2__
        if (past) {
            for (int i = 0; i < LINE; i += 16)
                _mm_stream_si128((__m128i *)(into + i),
                                 _mm_loadu_si128((const __m128i *)(from + i)));
            continue;
        }
#endif
        memcpy(into, from, LINE);
    }
    memcpy(into, from, nbytes);
#ifdef __SSE2__
    if (past)
        _mm_sfence();
#endif
}

/* Copy what is from `at` on, so many bytes, of a body. */
static void
collect(char *into, const struct part *parts, Py_ssize_t count, uint64_t at, uint64_t nbytes)
{
    for (const struct part *part = parts; part < parts + count; part++) {
        uint64_t begin = part->start > at ? part->start : at;
        uint64_t end = part->start + (uint64_t)part->buffer.len;
        if (end > at + nbytes)
            end = at + nbytes;
        if (begin < end)
            copy(into + (begin - at), (const char *)part->buffer.buf + (begin - part->start),
                 end - begin, end - begin >= STREAMED);
    }
}

/* Get the buffers of a list, and where in their body they start; return how many, -1 for an
   error. */
static Py_ssize_t
get_parts(PyObject *buffers, PyObject *starts, struct part *parts)
{
    Py_ssize_t count = PyList_Size(buffers), got = 0;
    if (count > BUFFERS || count >= PyList_Size(starts)) {
        PyErr_SetString(PyExc_ValueError, "too many buffers, or too few starts");
        return -1;
    }
    for (; got < count; got++) {
        struct part *part = parts + got;
        part->start = PyLong_AsUnsignedLongLong(PyList_GetItem(starts, got));
        if (PyErr_Occurred() ||
            PyObject_GetBuffer(PyList_GetItem(buffers, got), &part->buffer, PyBUF_SIMPLE) < 0)
            break;
    }
    if (got == count)
        return count;
    while (got-- > 0)
        PyBuffer_Release(&parts[got].buffer);
    return -1;
}

PyDoc_STRVAR(fill_doc, "fill(slab, record, slots, slot, buffers, starts, start, stop, /)\n--\n\n\
Copy a body, from `start` to `stop`, into the slots from `slot` on, and count up its pieces.\n\
\n\
Where in the slab are the record, and all slots; the body is a list of buffers, and of where they\n\
start in it.");

static PyObject *
fill(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory, *buffers, *starts;
    Py_ssize_t record, slots;
    unsigned long long start, stop;
    int slot;
    Py_buffer slab;
    struct part parts[BUFFERS];
    if (!PyArg_ParseTuple(args, "OnniO!O!KK", &memory, &record, &slots, &slot, &PyList_Type,
                          &buffers, &PyList_Type, &starts, &start, &stop) ||
        PyObject_GetBuffer(memory, &slab, PyBUF_WRITABLE) < 0)
        return NULL;
    Py_ssize_t count = get_parts(buffers, starts, parts);
    if (count >= 0) {
        unsigned char *at = (unsigned char *)slab.buf + record;
        char *into = (char *)slab.buf + slots + (size_t)slot * SLOT;
        Py_BEGIN_ALLOW_THREADS
        for (; start < stop; start += SLOT, slot++, into += SLOT) {
            uint64_t n = start / SLOT;
            collect(into, parts, count, start, stop - start < SLOT ? stop - start : SLOT);
            at[PIECES + n % 256] = (unsigned char)slot;
            __atomic_store_n(at, (unsigned char)(n + 1), __ATOMIC_RELEASE);
        }
        Py_END_ALLOW_THREADS
    }
    for (Py_ssize_t i = 0; i < count; i++)
        PyBuffer_Release(&parts[i].buffer);
    PyBuffer_Release(&slab);
    return count < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(empty_doc, "empty(slab, record, slots, taken, into, start, /)\n--\n\n\
Copy a body, from `start` on, out of its slots, free these, and return how far it was ready.\n\
\n\
Where in the slab are the record, all slots, and the bytes that say which are taken.");

static PyObject *
empty(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory, *body;
    Py_ssize_t record, slots, taken;
    unsigned long long start;
    Py_buffer slab, into;
    if (!PyArg_ParseTuple(args, "OnnnOK", &memory, &record, &slots, &taken, &body, &start) ||
        PyObject_GetBuffer(memory, &slab, PyBUF_WRITABLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(body, &into, PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&slab);
        return NULL;
    }
    const unsigned char *at = (const unsigned char *)slab.buf + record;
    unsigned long long stop = (unsigned long long)into.len;
    int past = stop >= WIDE && (uintptr_t)into.buf % LINE == 0;
    int looks = 0;
    Py_BEGIN_ALLOW_THREADS
    while (start < stop && looks < LOOKS) {
        uint64_t n = start / SLOT;
        if (__atomic_load_n(at, __ATOMIC_ACQUIRE) == (unsigned char)n) {
            sched_yield();
            looks++;
            continue;
        }
        size_t nbytes = stop - start < SLOT ? stop - start : SLOT;
        unsigned char slot = at[PIECES + n % 256];
        copy((char *)into.buf + start, (const char *)slab.buf + slots + (size_t)slot * SLOT, nbytes,
             past);
        __atomic_store_n((unsigned char *)slab.buf + taken + slot, 0, __ATOMIC_RELEASE);
        start += nbytes;
        looks = 0;
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&into);
    PyBuffer_Release(&slab);
    return PyLong_FromUnsignedLongLong(start);
}

static PyMethodDef functions[] = {
    {"fill", fill, METH_VARARGS, fill_doc},
    {"empty", empty, METH_VARARGS, empty_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fsexchange.mpi._native",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModule_Create(&definition);
}
