/* Bodies through a slab: see `slab`, which says what a record and a slot are.

   On AMD's processors memory that one core has just written is slow to read for another, most of
   all where the two share no cache: what is in the first one's must be fetched from there. So there
   the sender's stores go past its caches, and the receiver asks for what it will read soon; 1 MiB
   in 0.2 to 0.6 of the time. On Intel's both make it slower: 64 KiB to 4 MiB take 1.3 to 2.5 times
   as long. There few slots are used, which stay in the caches, in turn.

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

/* As `slab` has them: bytes of a slot; how many there are; where in the slab is at which of them to
   look first, and which are taken; where in a record is how many pieces were copied out, and the
   slot of each piece. */
enum { SLOT = 1 << 16, SLOTS = 128, NEXT = 1, TAKEN = 64, OUT = 3, PIECES = 256 };

enum {
    LINE = 64,       /* bytes of a cache's line */
    AHEAD = 8,       /* lines: as good as 32; without them reading takes two to three times as long */
    STREAMED = 4096, /* bytes, from which on stores go past the cache */
    WIDE = 8 << 20,  /* bytes of a body, from which on its receiver's do, too */
    LOOKS = 100,     /* at whether the next piece is ready */
    AT_A_TIME = 16,  /* slots of a call, so that a signal's handler runs soon */
    WARM = 16,       /* slots that are used in turn, if these are free, where caches hold them */
};

/* As `bodies` has it: a body has no more buffers. */
enum { BUFFERS = 64 };

/* A buffer of a body, and where in it that starts. */
struct part {
    Py_buffer buffer;
    uint64_t start;
};

/* Whether copies go past the caches. */
static int streams;

/* Copy, past this core's caches if `past`. */
static inline void
copy(char *into, const char *from, size_t nbytes, int past)
{
    if (!streams) {
        memcpy(into, from, nbytes);
        return;
    }
    size_t before = -(uintptr_t)into % LINE; /* what is left of a line */
    if (before > nbytes)
        before = nbytes;
    memcpy(into, from, before);
    into += before, from += before, nbytes -= before;
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

/* Take up to so many free slots that follow one another: return the first, and how many. Called
   with the GIL, so that no other thread takes the same, and no signal's handler loses them. */
static int
take(unsigned char *slab, int most, int *count)
{
    unsigned char *taken = slab + TAKEN;
    int first = slab[NEXT] % (streams ? SLOTS : WARM);
    for (int looks = 0; looks < SLOTS && taken[first]; looks++)
        first = (first + 1) % SLOTS;
    for (*count = 0; *count < most && first + *count < SLOTS && !taken[first + *count]; ++*count)
        taken[first + *count] = 1;
    slab[NEXT] = (unsigned char)(first + *count) % SLOTS;
    return first;
}

PyDoc_STRVAR(take_slot_doc, "take_slot(slab, held, /)\n--\n\n\
Take a slot, and append its number to a list; return whether one is free.");

static PyObject *
take_slot(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory, *held;
    Py_buffer slab;
    if (!PyArg_ParseTuple(args, "OO!", &memory, &PyList_Type, &held) ||
        PyObject_GetBuffer(memory, &slab, PyBUF_WRITABLE) < 0)
        return NULL;
    int count, first = take(slab.buf, 1, &count), failed = 0;
    if (count) {
        PyObject *slot = PyLong_FromLong(first);
        failed = slot == NULL || PyList_Append(held, slot) < 0;
        Py_XDECREF(slot);
        if (failed)
            ((unsigned char *)slab.buf)[TAKEN + first] = 0;
    }
    PyBuffer_Release(&slab);
    return failed ? NULL : PyBool_FromLong(count);
}

PyDoc_STRVAR(fill_doc, "fill(slab, record, slots, buffers, starts, start, /)\n--\n\n\
Copy a body, from `start` on, into free slots, count up its pieces, and return how far that went.\n\
\n\
Where in the slab are the record, and all slots; the body is a list of buffers, and of where they\n\
start in it, and its length.");

static PyObject *
fill(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory, *buffers, *starts;
    Py_ssize_t record, slots;
    unsigned long long start;
    Py_buffer slab;
    struct part parts[BUFFERS];
    if (!PyArg_ParseTuple(args, "OnnO!O!K", &memory, &record, &slots, &PyList_Type, &buffers,
                          &PyList_Type, &starts, &start) ||
        PyObject_GetBuffer(memory, &slab, PyBUF_WRITABLE) < 0)
        return NULL;
    Py_ssize_t count = get_parts(buffers, starts, parts);
    unsigned long long stop = 0;
    if (count >= 0) {
        stop = PyLong_AsUnsignedLongLong(PyList_GetItem(starts, count));
        unsigned char *at = (unsigned char *)slab.buf + record;
        int left = (stop - start) / SLOT < AT_A_TIME ? (int)((stop - start + SLOT - 1) / SLOT)
                                                     : AT_A_TIME;
        int free, slot = take(slab.buf, left, &free);
        Py_BEGIN_ALLOW_THREADS
        for (; free; free--, slot++) {
            uint64_t n = start / SLOT, nbytes = stop - start < SLOT ? stop - start : SLOT;
            collect((char *)slab.buf + slots + (size_t)slot * SLOT, parts, count, start, nbytes);
            at[PIECES + n % 256] = (unsigned char)slot;
            __atomic_store_n(at, (unsigned char)(n + 1), __ATOMIC_RELEASE);
            start += nbytes;
        }
        Py_END_ALLOW_THREADS
    }
    for (Py_ssize_t i = 0; i < count; i++)
        PyBuffer_Release(&parts[i].buffer);
    PyBuffer_Release(&slab);
    return count < 0 ? NULL : PyLong_FromUnsignedLongLong(start);
}

PyDoc_STRVAR(empty_doc, "empty(slab, record, slots, into, start, /)\n--\n\n\
Copy a body, from `start` on, out of its slots, free these, and return how far it was ready.\n\
\n\
Where in the slab are the record, and all slots.");

static PyObject *
empty(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory, *body;
    Py_ssize_t record, slots;
    unsigned long long start;
    Py_buffer slab, into;
    if (!PyArg_ParseTuple(args, "OnnOK", &memory, &record, &slots, &body, &start) ||
        PyObject_GetBuffer(memory, &slab, PyBUF_WRITABLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(body, &into, PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&slab);
        return NULL;
    }
    unsigned char *at = (unsigned char *)slab.buf + record;
    unsigned char *taken = (unsigned char *)slab.buf + TAKEN;
    unsigned long long stop = (unsigned long long)into.len;
    int past = stop >= WIDE;
    int looks = 0, copied = 0;
    Py_BEGIN_ALLOW_THREADS
    while (start < stop && looks < LOOKS && copied < AT_A_TIME) {
        uint64_t n = start / SLOT;
        if (__atomic_load_n(at, __ATOMIC_ACQUIRE) == (unsigned char)n) {
            sched_yield();
            looks++;
            continue;
        }
        size_t nbytes = stop - start < SLOT ? stop - start : SLOT;
        unsigned char slot = at[PIECES + n % 256] % SLOTS;
        copy((char *)into.buf + start, (const char *)slab.buf + slots + (size_t)slot * SLOT, nbytes,
             past);
        at[OUT] = (unsigned char)(n + 1);
        __atomic_store_n(taken + slot, 0, __ATOMIC_RELEASE);
        start += nbytes;
        looks = 0;
        copied++;
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&into);
    PyBuffer_Release(&slab);
    return PyLong_FromUnsignedLongLong(start);
}

PyDoc_STRVAR(guard_doc, "guard(take, drop, what, /)\n--\n\n\
Return `take(held)`, of a list of what; if that raises, `drop(held)` unless the list is empty.");

static PyObject *
guard(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *take_it, *drop_it, *what;
    if (!PyArg_ParseTuple(args, "OOO", &take_it, &drop_it, &what))
        return NULL;
    PyObject *held = Py_BuildValue("[O]", what);
    if (held == NULL)
        return NULL;
    PyObject *result = PyObject_CallFunctionObjArgs(take_it, held, NULL);
    if (result == NULL && PyList_Size(held) > 0) {
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyObject *dropped = PyObject_CallFunctionObjArgs(drop_it, held, NULL);
        if (dropped != NULL) {
            Py_DECREF(dropped);
            PyErr_Restore(type, error, traceback);
        }
        else { /* that of another handler is the one to raise */
            Py_XDECREF(type);
            Py_XDECREF(error);
            Py_XDECREF(traceback);
        }
    }
    Py_DECREF(held);
    return result;
}

static PyMethodDef functions[] = {
    {"take_slot", take_slot, METH_VARARGS, take_slot_doc},
    {"fill", fill, METH_VARARGS, fill_doc},
    {"empty", empty, METH_VARARGS, empty_doc},
    {"guard", guard, METH_VARARGS, guard_doc},
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
#ifdef __SSE2__
    __builtin_cpu_init();
    streams = __builtin_cpu_is("amd") != 0;
#endif
    return PyModule_Create(&definition);
}
