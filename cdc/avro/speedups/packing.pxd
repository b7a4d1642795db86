cimport cython

cdef int _OTHER, _PLAIN, _INTEGER, _DECIMAL, _BOOLEAN, _TIMESTAMP, _TIMESTAMPTZ
cdef int _ANY_SCALE, _MOST_DIGITS, _SECONDS
cdef int _TEXT, _NULL, _TRUE, _FALSE
cdef int _MINUS, _POINT, _ZERO, _PLUS, _T, _Z


cdef class EventPacker:
    cdef Py_ssize_t _begins, _count
    cdef bytes _known, _nullable, _in_key, _forms, _sizes
    cdef bytes _head, _tail, _key_head
    cdef list _packers, _fillers, _key, _placing

    @cython.locals(
        out=bytearray, keys=list, at=Py_ssize_t, length=Py_ssize_t, i=Py_ssize_t, mark=cython.int,
        begins=Py_ssize_t, start=Py_ssize_t, size=Py_ssize_t,
    )
    cpdef tuple pack(self, bytes data)

    @cython.locals(key=bytes)
    cdef tuple _with_key(self, bytearray out, list keys)

    @cython.locals(form=cython.int, done=cython.bint)
    cdef int _put(self, Py_ssize_t i, bytes data, Py_ssize_t start, Py_ssize_t end, bytearray out) except -1


@cython.locals(text=bytes)
cdef bint _put_text(bytearray out, bytes data, Py_ssize_t start, Py_ssize_t end) except -1

cdef bint _put_boolean(bytearray out, bytes data, Py_ssize_t start, Py_ssize_t end) except -1

@cython.locals(
    at=Py_ssize_t, digits=Py_ssize_t, digit=cython.int, negative=cython.bint, n=cython.longlong, limit=cython.longlong
)
cdef bint _put_integer(bytearray out, bytes data, Py_ssize_t start, Py_ssize_t end, int bits) except -1

@cython.locals(
    first=Py_ssize_t, at=Py_ssize_t, point=Py_ssize_t, whole=Py_ssize_t, fraction=Py_ssize_t, digit=cython.int,
    n=cython.longlong,
)
cdef bint _put_decimal(bytearray out, bytes data, Py_ssize_t start, Py_ssize_t end, int scale) except -1

@cython.locals(size=cython.int, shift=cython.int, limit=cython.longlong)
cdef int _put_number(bytearray out, long long n) except -1

cdef bint _put_timestamp(bytearray out, bytes data, Py_ssize_t start, Py_ssize_t end) except -1

@cython.locals(last=Py_ssize_t, fraction=Py_ssize_t, whole=Py_ssize_t, at=Py_ssize_t)
cdef bint _put_timestamptz(bytearray out, bytes data, Py_ssize_t start, Py_ssize_t end, int precision) except -1

@cython.locals(z=cython.ulonglong)
cdef int _put_long(bytearray out, long long n) except -1
