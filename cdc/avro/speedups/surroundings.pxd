cimport cython

cdef int _THERE, _NO, _QUOTE, _OPENS, _CLOSES, _COMMA, _ZERO, _MORE, _MOST_DIGITS, _ROWS
cdef bytes _OPS, _NULL_LSN


cdef class Surroundings:
    cdef bytes _head, _database, _table
    cdef frozenset _marks

    @cython.locals(begins=Py_ssize_t)
    cpdef tuple find(self, bytes value)

    @cython.locals(
        at=Py_ssize_t, size=Py_ssize_t, start=Py_ssize_t, moment=bytes, name=bytes, ordinal=cython.ulonglong,
        bits=cython.ulonglong, shift=cython.int, op=cython.int,
    )
    cdef tuple _found(self, bytes value, Py_ssize_t begins)


cdef Py_ssize_t _behind_number(bytes value, Py_ssize_t at) except -1
cdef Py_ssize_t _behind_there(bytes value, Py_ssize_t at) except -1
cdef Py_ssize_t _behind_optional(bytes value, Py_ssize_t at) except -1

@cython.locals(i=Py_ssize_t)
cdef Py_ssize_t _behind(bytes value, Py_ssize_t at, bytes expected) except -1

cdef Py_ssize_t _behind_sequence(bytes value, Py_ssize_t at) except -1

@cython.locals(start=Py_ssize_t, end=Py_ssize_t)
cdef Py_ssize_t _behind_digits(bytes value, Py_ssize_t at) except -1
