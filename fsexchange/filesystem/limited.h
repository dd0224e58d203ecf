/* Python's headers, as every C file includes them, and numbers in bytes.

   Only what CPython's limited API of 3.11 has is used, so that one file serves all later versions,
   and 3.10: that has the buffer protocol in the same form, but did not promise to keep it. For 3.10
   also: no Py_RETURN_NONE, which in headers from 3.12 on takes no reference, and no formats with
   "#", which headers from 3.13 on compile to what it refuses. */

#include <patchlevel.h>
#if PY_VERSION_HEX >= 0x030b0000
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

#include <stdint.h>

/* Return a number, little-endian, of so many bytes. */
static inline uint64_t
number_of(const unsigned char *at, int width)
{
    uint64_t number = 0;
    while (width-- > 0)
        number = number << 8 | at[width];
    return number;
}

/* Put a number, and return where it ends. */
static inline char *
put_number(char *at, uint64_t number, int width)
{
    for (; width-- > 0; number >>= 8)
        *at++ = (char)(number & 0xff);
    return at;
}
