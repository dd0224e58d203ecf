/* Bodies through a slab: see `slab`, which says what a record and a slot are.

   Memory that one core has just written may be slow to read for another: what is in the caches of
   the first must be fetched from there. Then the sender's stores should go past its caches, and the
   receiver ask for what it will read soon: 1 MiB takes 0.2 to 0.6 of the time on AMD's processors,
   where the cores share no cache. Where they share one both make it slower, and on Intel's: 64 KiB to
   4 MiB take 1.3 to 2.5 times as long. There few slots should be used, which stay in the caches.
   Which way is faster depends on the cores on which the ranks are now, so it is measured. */

#include "../filesystem/limited.h"

#include <sched.h>
#include <string.h>
#include <time.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* As `slab` has them: bytes of a slot, and of a record; how many there are; where in the slab is at
   which slot to look first, how long copies into and out of slots take, by how many readers each
   slot and record is taken, the first record, and the first slot; where in a record is whether the
   rest is elsewhere, and the slot of each piece. The number of a slot has `PAST` added if it was
   filled past the caches. */
enum { SLOT = 1 << 16, RECORD = 512, SLOTS = 128, RECORDS = 64, PAST = SLOTS };
enum { NEXT = 1, TAKEN = 64, RECORDS_TAKEN = 192, INS = 384, OUTS = 448, RECORD_AT = 512, FIRST = SLOT };
enum { OVER = 1, PIECES = 256 };

enum {
    LINE = 64,       /* bytes of a cache's line */
    AHEAD = 8,       /* lines: as good as 32; without them reading takes two to three times as long */
    STREAMED = 4096, /* bytes, from which on stores go past the cache */
    WIDE = 8 << 20,  /* bytes of a body, from which on its receiver's do, too */
    LOOKS = 100,     /* at whether the next piece is ready */
    AT_A_TIME = 16,  /* slots of a call, so that a signal's handler runs soon */
    WARM = 16,       /* slots that are used in turn, if these are free, where caches hold them */
    TIMED = 7,       /* of so many slots one is timed, whichever pieces of bodies they hold */
    TRIED = 256,     /* slots of a trial of the other way */
    SOON = 512,      /* slots from the end of a trial to that of the next: at first, and at most */
    LATE = 1 << 14,
    IN_VAIN = 2,     /* times as long as both copies by the faster way: twice so, and a trial ends */
    LONG = 1 << 24,  /* of a time: more says nothing */
};

/* How long copies in, or out, take by either way: the plain one and that past the caches, in ns per
   KiB; the faster way. How many slots are left until a trial of the other ends, which is made for
   the last of them; from how many on it counts; how often in turn the trial was in vain. */
struct paces {
    uint32_t of[2];
    uint32_t best;
    uint32_t left;
    uint32_t after;
    uint32_t vain;
};

/* As `bodies` has it: a body has no more buffers. */
enum { BUFFERS = 64 };

/* A buffer of a body, and where in it that starts. */
struct part {
    Py_buffer buffer;
    uint64_t start;
};

/* The way of bodies of which nothing else is known. */
static uint32_t streams;

/* Copy from memory that this core has not in its caches, and past these if `past`. */
static void
stream(char *into, const char *from, size_t nbytes, int past)
{
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

/* ---- which way ------------------------------------------------------------------------------ */

static uint64_t
now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000 + (uint64_t)at.tv_nsec;
}

/* Note how long a copy took that began then, and return it. What is noted grows by an eighth at
   most, as a core may do other things in between. Of ranks that note theirs at a time one counts. */
static uint32_t
note(uint32_t *pace, uint64_t began, size_t nbytes)
{
    uint64_t measured = (now() - began) * 1024 / nbytes + 1;
    uint32_t took = measured < LONG ? (uint32_t)measured : LONG, was = *pace;
    if (!was)
        *pace = took;
    else if (took < was)
        *pace = (took + was) / 2;
    else
        *pace = took < was + was / 8 ? took : was + was / 8 + 1;
    return took;
}

static int
is_timed(uint64_t slot, uint64_t nbytes)
{
    return slot % SLOTS % TIMED == 0 && nbytes >= STREAMED;
}

/* Return the way of the next slot: the faster one, or, now and then, the other. */
static int
way(const unsigned char *slab)
{
    const struct paces *ins = (const struct paces *)(slab + INS);
    return (int)(ins->best ^ (ins->left - 1 < TRIED));
}

/* Count a slot that was filled, and now and then find the faster way: that to begin with, unless a
   copy in and one out take a ninth less time by the other. The longer it is the same, the less often
   the other is tried. */
static void
count_slot(unsigned char *slab)
{
    struct paces *ins = (struct paces *)(slab + INS), *outs = (struct paces *)(slab + OUTS);
    uint32_t best = ins->after ? ins->best : streams, left = ins->left;
    left -= left > 0; /* other threads may do the same now */
    ins->left = left;
    if (left == TRIED) /* what the other took long ago says nothing */
        ins->of[!best] = outs->of[!best] = ins->vain = 0;
    if (left % SLOTS)
        return;
    if (ins->of[0] && ins->of[1] && outs->of[0] && outs->of[1]) {
        uint32_t known = ins->of[streams] + outs->of[streams];
        uint32_t other = ins->of[!streams] + outs->of[!streams];
        best = other + other / 8 < known ? !streams : streams;
    }
    if (best != ins->best || !ins->after)
        ins->left = ins->after = SOON;
    else if (!left)
        ins->left = ins->after = ins->after < LATE / 4 ? ins->after * 4 : LATE;
    ins->best = best;
}

/* Fill a slot with what is from `at` on, so many bytes, of a body; return its number, with `PAST`
   added if that was past the caches. */
static unsigned char
fill_slot(unsigned char *slab, int slot, const struct part *parts, Py_ssize_t n_parts, uint64_t at,
          uint64_t nbytes)
{
    char *into = (char *)slab + FIRST + (size_t)slot * SLOT;
    struct paces *ins = (struct paces *)(slab + INS);
    const struct paces *outs = (const struct paces *)(slab + OUTS);
    int past = way(slab);
    uint64_t began = is_timed((uint64_t)slot, nbytes) ? now() : 0;
    for (const struct part *part = parts; part < parts + n_parts; part++) {
        uint64_t begin = part->start > at ? part->start : at;
        uint64_t end = part->start + (uint64_t)part->buffer.len;
        if (end > at + nbytes)
            end = at + nbytes;
        if (begin >= end)
            continue;
        const char *from = (const char *)part->buffer.buf + (begin - part->start);
        if (past)
            stream(into + (begin - at), from, end - begin, end - begin >= STREAMED);
        else
            memcpy(into + (begin - at), from, end - begin);
    }
    uint32_t took = began ? note(&ins->of[past], began, nbytes) : 0;
    if (took && past != (int)ins->best && outs->of[!past]) {
        ins->vain = took / IN_VAIN > ins->of[!past] + outs->of[!past] ? ins->vain + 1 : 0;
        if (ins->vain == 2)
            ins->left = 1;
    }
    count_slot(slab);
    return (unsigned char)(slot + (past ? PAST : 0));
}

/* Take the share of one reader from what is taken; the last one's frees it. */
static void
release_share(unsigned char *taken)
{
    __atomic_sub_fetch(taken, 1, __ATOMIC_ACQ_REL);
}

/* Copy so many bytes out of the slot of a number, past this core's caches if `wide`, and free it;
   only free it if there is no memory to copy to. */
static void
empty_slot(unsigned char *slab, uint64_t number, char *into, uint64_t nbytes, int wide)
{
    const char *from = (const char *)slab + FIRST + number % SLOTS * SLOT;
    struct paces *outs = (struct paces *)(slab + OUTS);
    int past = (number & PAST) != 0;
    uint64_t began = is_timed(number, nbytes) ? now() : 0;
    if (into != NULL && past)
        stream(into, from, nbytes, wide);
    else if (into != NULL)
        memcpy(into, from, nbytes);
    if (into != NULL && began)
        note(&outs->of[past], began, nbytes);
    release_share(slab + TAKEN + number % SLOTS);
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

/* Return whether a slot has readers yet; what is written to it from here on is after their loads. */
static int
is_taken(const unsigned char *taken)
{
    return __atomic_load_n(taken, __ATOMIC_ACQUIRE) != 0;
}

/* Take up to so many free slots that follow one another, each for so many readers: return the first,
   and how many. Called with the GIL, so that no other thread takes the same, and no signal's handler
   loses them. */
static int
take(unsigned char *slab, int most, int readers, int *count)
{
    unsigned char *taken = slab + TAKEN;
    int first = slab[NEXT] % (way(slab) ? SLOTS : WARM);
    for (int looks = 0; looks < SLOTS && is_taken(taken + first); looks++)
        first = (first + 1) % SLOTS;
    for (*count = 0;
         *count < most && first + *count < SLOTS && !is_taken(taken + first + *count); ++*count)
        taken[first + *count] = (unsigned char)readers;
    slab[NEXT] = (unsigned char)(first + *count) % SLOTS;
    return first;
}

PyDoc_STRVAR(release_doc, "release(taken, number, kept, /)\n--\n\n\
Take the share of one reader from a slot or a record, unless it is to be kept.");

static PyObject *
release(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory;
    Py_ssize_t number;
    int kept;
    Py_buffer taken;
    if (!PyArg_ParseTuple(args, "Onp", &memory, &number, &kept) ||
        PyObject_GetBuffer(memory, &taken, PyBUF_WRITABLE) < 0)
        return NULL;
    int is_in = number >= 0 && number < taken.len;
    if (is_in && !kept)
        release_share((unsigned char *)taken.buf + number);
    PyBuffer_Release(&taken);
    if (!is_in) {
        PyErr_SetString(PyExc_IndexError, "there is no such slot or record");
        return NULL;
    }
    return Py_BuildValue("");
}

PyDoc_STRVAR(take_slot_doc, "take_slot(slab, held, readers, /)\n--\n\n\
Take a slot for so many readers, and append its number to a list; return whether one is free.");

static PyObject *
take_slot(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory, *held;
    int readers;
    Py_buffer slab;
    if (!PyArg_ParseTuple(args, "OO!i", &memory, &PyList_Type, &held, &readers) ||
        PyObject_GetBuffer(memory, &slab, PyBUF_WRITABLE) < 0)
        return NULL;
    int count, first = take(slab.buf, 1, readers, &count), failed = 0;
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

/* As `bodies` has it, what a placeholder says: family and rank, kind of place, how many buffers;
   slot, bytes of the body, and of its one buffer. The pickle of the object follows. */
enum { FROM = 12, KIND = 12, COUNT = 14, NUMBER = 16, NBYTES = 24, SAID = 40 };

static char *
put_bytes(char *at, PyObject *bytes)
{
    size_t nbytes = (size_t)PyBytes_Size(bytes);
    memcpy(at, PyBytes_AsString(bytes), nbytes);
    return at + nbytes;
}

PyDoc_STRVAR(place_doc, "place(slab, held, readers, before, sender, body, buffer, after, /)\n--\n\n\
Copy a buffer into a slot, append its number to a list, and return the placeholder; None if no slot\n\
is free.\n\
\n\
What is before and after it in every placeholder; family and rank of the sender; the pickle.");

static PyObject *
place(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory, *held, *before, *from, *body, *buffer, *after;
    int readers;
    Py_buffer slab, data;
    if (!PyArg_ParseTuple(args, "OO!iSSSOS", &memory, &PyList_Type, &held, &readers, &before, &from,
                          &body, &buffer, &after) ||
        PyObject_GetBuffer(memory, &slab, PyBUF_WRITABLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(buffer, &data, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&slab);
        return NULL;
    }
    PyObject *placeholder = NULL;
    int count = 0, slot = 0;
    uint64_t size = SAID + (uint64_t)PyBytes_Size(body);
    if (PyBytes_Size(from) != FROM || data.len > SLOT)
        PyErr_SetString(PyExc_ValueError, "no sender, or too long a buffer");
    else {
        placeholder = PyBytes_FromStringAndSize(
            NULL, PyBytes_Size(before) + 8 + (Py_ssize_t)size + PyBytes_Size(after));
        slot = take(slab.buf, placeholder != NULL, readers, &count);
    }
    if (count) {
        char *at = put_number(put_bytes(PyBytes_AsString(placeholder), before), size, 8);
        at = put_number(put_number(put_bytes(at, from), 0, 2), 1, 2);
        PyObject *number = PyLong_FromLong(slot);
        if (number == NULL || PyList_Append(held, number) < 0) {
            ((unsigned char *)slab.buf)[TAKEN + slot] = 0;
            Py_CLEAR(placeholder);
        }
        else {
            const struct part whole = {data, 0};
            uint64_t nbytes = (uint64_t)data.len;
            at = put_number(at, fill_slot(slab.buf, slot, &whole, 1, 0, nbytes), 8);
            put_bytes(put_bytes(put_number(put_number(at, nbytes, 8), nbytes, 8), body), after);
        }
        Py_XDECREF(number);
    }
    else if (placeholder != NULL) {
        Py_DECREF(placeholder);
        placeholder = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&slab);
    return placeholder;
}

PyDoc_STRVAR(fill_doc, "fill(slab, record, has_slots, buffers, starts, start, /)\n--\n\n\
Copy a body, from `start` on, into slots, count up its pieces, and return how far that went.\n\
\n\
Where in the slab the record is, and whether it has all its slots already; the body is a list of\n\
buffers, and of where they start in it, and its length.");

static PyObject *
fill(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory, *buffers, *starts;
    Py_ssize_t record;
    int has_slots;
    unsigned long long start;
    Py_buffer slab;
    struct part parts[BUFFERS];
    if (!PyArg_ParseTuple(args, "OnpO!O!K", &memory, &record, &has_slots, &PyList_Type, &buffers,
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
        int free = left, slot = has_slots ? 0 : take(slab.buf, left, 1, &free);
        Py_BEGIN_ALLOW_THREADS
        for (; free; free--, slot++) {
            uint64_t n = start / SLOT, nbytes = stop - start < SLOT ? stop - start : SLOT;
            if (has_slots)
                slot = at[PIECES + n % 256] % SLOTS;
            at[PIECES + n % 256] = fill_slot(slab.buf, slot, parts, count, start, nbytes);
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

/* Copy of a body of `stop` bytes what is ready, from `start` on, out of its slots, and free these;
   return how far that went. Without memory to copy to, what comes is dropped. */
static uint64_t
copy_out(unsigned char *slab, Py_ssize_t record, char *into, uint64_t start, uint64_t stop)
{
    unsigned char *at = slab + record;
    int looks = 0, copied = 0;
    while (start < stop && looks < LOOKS && copied < AT_A_TIME) {
        uint64_t n = start / SLOT;
        if (__atomic_load_n(at, __ATOMIC_ACQUIRE) == (unsigned char)n) {
            sched_yield();
            looks++;
            continue;
        }
        size_t nbytes = stop - start < SLOT ? stop - start : SLOT;
        empty_slot(slab, at[PIECES + n % 256], into == NULL ? NULL : into + start, nbytes,
                   stop >= WIDE);
        start += nbytes;
        looks = 0;
        copied++;
    }
    return start;
}

PyDoc_STRVAR(empty_doc, "empty(slab, record, into, nbytes, done, /)\n--\n\n\
Copy a body of so many bytes out of its slots as far as it is ready, and free these.\n\
\n\
Where in the slab the record is; the memory to copy to, None to drop what comes; memory of 8 bytes\n\
that says from where on, and then how far.");

static PyObject *
empty(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory, *body, *progress;
    Py_ssize_t record;
    unsigned long long nbytes;
    Py_buffer slab, into = {0}, done;
    if (!PyArg_ParseTuple(args, "OnOKO", &memory, &record, &body, &nbytes, &progress) ||
        PyObject_GetBuffer(memory, &slab, PyBUF_WRITABLE) < 0)
        return NULL;
    int failed = body != Py_None && PyObject_GetBuffer(body, &into, PyBUF_WRITABLE) < 0;
    if (!failed && into.buf != NULL && (uint64_t)into.len < nbytes) {
        PyErr_SetString(PyExc_ValueError, "the body is longer than the memory");
        failed = 1;
    }
    if (!failed && PyObject_GetBuffer(progress, &done, PyBUF_WRITABLE) == 0) {
        uint64_t start;
        memcpy(&start, done.buf, sizeof start);
        Py_BEGIN_ALLOW_THREADS
        start = copy_out(slab.buf, record, into.buf, start, nbytes);
        Py_END_ALLOW_THREADS
        memcpy(done.buf, &start, sizeof start);
        PyBuffer_Release(&done);
    }
    if (into.obj != NULL)
        PyBuffer_Release(&into);
    PyBuffer_Release(&slab);
    return PyErr_Occurred() ? NULL : Py_BuildValue("");
}

PyDoc_STRVAR(order_doc, "order()\n--\n\n\
Let all loads and stores before this end before those after it.");

static PyObject *
order(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return Py_BuildValue("");
}

/* ---- arrays --------------------------------------------------------------------------------- */

static PyObject *its_nbytes;

/* Copy a body out of its slot or record, and free that; return whether it is all here. It is not if
   a signal's handler has raised an error, or the rest is elsewhere: then `done` says how far it went,
   and is behind the array in `held`. */
static int
take_out(unsigned char *slab, int is_record, uint64_t number, PyObject *array,
         const Py_buffer *into, PyObject *held)
{
    uint64_t start = 0, before, nbytes = (uint64_t)into->len;
    if (!is_record) {
        empty_slot(slab, number, into->buf, nbytes, 0);
        return 1;
    }
    PyObject *done = PyByteArray_FromStringAndSize((const char *)&start, sizeof start);
    PyObject *begun = done == NULL ? NULL : PyTuple_Pack(2, array, done);
    int failed = begun == NULL || PyList_Append(held, begun) < 0;
    Py_XDECREF(begun);
    Py_XDECREF(done);
    if (failed)
        return 0;
    Py_ssize_t record = RECORD_AT + (Py_ssize_t)number * RECORD;
    do {
        before = start;
        Py_BEGIN_ALLOW_THREADS
        start = copy_out(slab, record, into->buf, start, nbytes);
        Py_END_ALLOW_THREADS
        memcpy(PyByteArray_AsString(done), &start, sizeof start);
    } while (start < nbytes && PyErr_CheckSignals() == 0 &&
             (start > before || !slab[record + OVER]));
    if (start < nbytes)
        return 0;
    release_share(slab + RECORDS_TAKEN + number);
    return 1;
}

/* Return the array of a body in the slab. NULL for all else, and for an error: then `held` has what
   is to be taken, or dropped, and if some of it was copied, a tuple: see `take_out`. */
static PyObject *
array_in_slab(PyObject *senders, PyObject *arrays, PyObject *ndarray, PyObject *empty_it,
              PyObject *what, PyObject *held)
{
    const unsigned char *said = (const unsigned char *)PyBytes_AsString(what);
    Py_ssize_t size = PyBytes_Size(what);
    if (size <= SAID)
        return NULL;
    uint64_t kind = number_of(said + KIND, 2), number = number_of(said + NUMBER, 8);
    if (kind > 1 || number >= (kind ? RECORDS : SLOTS + PAST) || number_of(said + COUNT, 2) != 1)
        return NULL;
    PyObject *from = PyBytes_FromStringAndSize((const char *)said, FROM);
    PyObject *body = PyBytes_FromStringAndSize((const char *)said + SAID, size - SAID);
    PyObject *sender = from == NULL ? NULL : PyDict_GetItemWithError(senders, from);
    PyObject *array = body == NULL ? NULL : PyDict_GetItemWithError(arrays, body);
    Py_XDECREF(from);
    Py_XDECREF(body);
    /* What was lent is to be looked at when something comes. */
    if (sender == NULL || array == NULL || PyDict_Size(PyTuple_GetItem(sender, 3)) != 0)
        return NULL;
    Py_buffer slab, into, waits;
    if (PyObject_GetBuffer(PyTuple_GetItem(sender, 0), &slab, PyBUF_WRITABLE) < 0)
        return NULL;
    Py_INCREF(sender);
    Py_INCREF(array);
    int is_whole = 0;
    uint64_t nbytes = number_of(said + NBYTES, 8);
    PyObject *arrived = PyLong_FromUnsignedLongLong((uint64_t)size + nbytes);
    PyObject *size_of = PyLong_FromUnsignedLongLong(nbytes);
    PyObject *memory = NULL; /* kept, where that is worth it: see `received` */
    if (nbytes > SLOT && size_of != NULL)
        memory = PyObject_CallFunctionObjArgs(empty_it, size_of, NULL);
    PyObject *made = nbytes > SLOT && memory == NULL
                         ? NULL
                         : PyObject_CallFunctionObjArgs(ndarray, PyTuple_GetItem(array, 1),
                                                        PyTuple_GetItem(array, 0), memory, NULL);
    Py_XDECREF(memory);
    Py_XDECREF(size_of);
    if (arrived != NULL && made != NULL &&
        PyObject_SetAttr(PyTuple_GetItem(sender, 1), its_nbytes, arrived) == 0 &&
        PyObject_GetBuffer(PyTuple_GetItem(sender, 2), &waits, PyBUF_WRITABLE) == 0) {
        *(unsigned char *)waits.buf = 0; /* no longer for a message */
        PyBuffer_Release(&waits);
        if (PyObject_GetBuffer(made, &into, PyBUF_WRITABLE) == 0) {
            if (into.len == (Py_ssize_t)nbytes)
                is_whole = take_out(slab.buf, kind == 1, number, made, &into, held);
            PyBuffer_Release(&into);
        }
    }
    Py_XDECREF(arrived);
    Py_DECREF(array);
    Py_DECREF(sender);
    PyBuffer_Release(&slab);
    if (is_whole)
        return made;
    Py_XDECREF(made);
    return NULL;
}

PyDoc_STRVAR(arrive_doc, "arrive(senders, arrays, ndarray, empty, take, drop, said, /)\n--\n\n\
Return the object of a placeholder: an array, or what `take(held)` returns.\n\
\n\
That gets a list of what the placeholder says, and if some of an array was copied, of a tuple of\n\
this and memory of 8 bytes that says how many. If something raises, `drop(held)` is called unless\n\
the list is empty.");

static PyObject *
arrive(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *senders, *arrays, *ndarray, *empty_it, *take_it, *drop_it, *what;
    if (!PyArg_ParseTuple(args, "O!O!OOOOS", &PyDict_Type, &senders, &PyDict_Type, &arrays,
                          &ndarray, &empty_it, &take_it, &drop_it, &what))
        return NULL;
    PyObject *held = Py_BuildValue("[O]", what);
    if (held == NULL)
        return NULL;
    PyObject *result = array_in_slab(senders, arrays, ndarray, empty_it, what, held);
    if (result == NULL) {
        if (!PyErr_Occurred())
            result = PyObject_CallFunctionObjArgs(take_it, held, NULL);
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
    }
    Py_DECREF(held);
    return result;
}

PyDoc_STRVAR(copy_past_doc, "copy_past(into, data, /)\n--\n\n\
Copy data, past the caches of this core where it can.");

static PyObject *
copy_past(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *memory, *data;
    Py_buffer into, from;
    if (!PyArg_ParseTuple(args, "OO", &memory, &data) ||
        PyObject_GetBuffer(memory, &into, PyBUF_WRITABLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(data, &from, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&into);
        return NULL;
    }
    int fits = from.len <= into.len;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        stream(into.buf, from.buf, (size_t)from.len, 1);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&from);
    PyBuffer_Release(&into);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the data is longer than the memory");
        return NULL;
    }
    return Py_BuildValue("");
}

static PyMethodDef functions[] = {
    {"release", release, METH_VARARGS, release_doc},
    {"take_slot", take_slot, METH_VARARGS, take_slot_doc},
    {"place", place, METH_VARARGS, place_doc},
    {"fill", fill, METH_VARARGS, fill_doc},
    {"empty", empty, METH_VARARGS, empty_doc},
    {"order", order, METH_NOARGS, order_doc},
    {"arrive", arrive, METH_VARARGS, arrive_doc},
    {"copy_past", copy_past, METH_VARARGS, copy_past_doc},
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
    its_nbytes = PyUnicode_InternFromString("nbytes");
#ifdef __SSE2__
    __builtin_cpu_init();
    streams = __builtin_cpu_is("amd") != 0;
#endif
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "STREAMS", streams) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
