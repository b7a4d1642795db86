cimport cython

cdef int _DATA, _LONG, _FLAG, _FLOAT, _DOUBLE
cdef int _OTHER, _PLAIN, _INTEGER, _DECIMAL, _BOOLEAN, _TIMESTAMP, _TIMESTAMPTZ
cdef int _MOST_SCALE, _MICROSECONDS
cdef int _ZERO, _DASH, _T, _COLON, _POINT, _Z


cdef class RowReader:
    cdef Py_ssize_t _count, _after
    cdef bytes _primitives, _sizes, _nullable, _wanted, _forms, _scales
    cdef list _decoders, _order

    @cython.locals(
        values=list, length=Py_ssize_t, i=Py_ssize_t, branch=cython.int, primitive=cython.int, n=cython.ulonglong,
        start=Py_ssize_t, size=cython.ulonglong,
    )
    cpdef tuple read(self, bytes data, Py_ssize_t at)

    @cython.locals(n=cython.ulonglong, bits=cython.ulonglong, shift=cython.int)
    cdef unsigned long long _number(self, bytes data, Py_ssize_t at) except? 0

    @cython.locals(primitive=cython.int)
    cdef bytes _text(self, Py_ssize_t i, unsigned long long n, bytes data, Py_ssize_t start, Py_ssize_t end)

    @cython.locals(form=cython.int, text=bytes)
    cdef bytes _text_of_data(self, Py_ssize_t i, bytes data, Py_ssize_t start, Py_ssize_t end)

    @cython.locals(form=cython.int, text=bytes)
    cdef bytes _text_of_long(self, Py_ssize_t i, long long n)

    @cython.locals(primitive=cython.int, text=bytes)
    cdef bytes _text_of_fixed(self, Py_ssize_t i, bytes data, Py_ssize_t at)


@cython.locals(n=cython.ulonglong, at=Py_ssize_t, digits=bytes, whole=Py_ssize_t)
cdef bytes _decimal_text(bytes data, Py_ssize_t start, Py_ssize_t end, int scale)

@cython.locals(year=cython.int, at=Py_ssize_t, digit=cython.int, last=Py_ssize_t)
cdef bytes _timestamptz_text(bytes data, Py_ssize_t start, Py_ssize_t end)
