cimport cython

cdef int _THERE, _NO, _QUOTE, _OPENS, _CLOSES, _COMMA, _ZERO, _COLON, _MORE, _MOST_DIGITS, _ROWS, _DIGITS
cdef bytes _OPS, _NULL_LSN, _NONE, _END


cdef class _Digits:
    cdef Py_ssize_t _after

    @cython.locals(n=cython.ulonglong, start=Py_ssize_t, digit=cython.int)
    cdef unsigned long long _digits(self, bytes value, Py_ssize_t at) except? 0

    cdef Py_ssize_t _behind_xid(self, bytes value, Py_ssize_t at) except -1


cdef class Ends(_Digits):
    cdef object _kinds, _counts
    cdef bytes _bytes

    cpdef object end(self, bytes value)

    @cython.locals(
        start=Py_ssize_t, end=Py_ssize_t, at=Py_ssize_t, epoch=cython.ulonglong, commit_lsn=cython.ulonglong,
        is_transaction=cython.bint, last_ordinal=cython.longlong,
    )
    cdef object _end(self, bytes value)


cdef class Surroundings(_Digits):
    cdef bytes _head, _database, _table
    cdef frozenset _marks
    cdef Py_ssize_t _name, _name_end, _moment, _moment_end
    cdef int _op
    cdef unsigned long long _ordinal

    @cython.locals(
        found=list, i=Py_ssize_t, value=bytes, begins=Py_ssize_t, op=cython.int, ordinal=cython.ulonglong, name=bytes
    )
    cpdef list scan_all(
        self, object records, Py_ssize_t first, bytes framing, object scanner, dict known, Py_ssize_t most_known
    )

    @cython.locals(
        end=Py_ssize_t, moment=Py_ssize_t, start=Py_ssize_t, at=Py_ssize_t, epoch=cython.ulonglong, commit_lsn=cython.ulonglong
    )
    cdef object _begun(self, bytes value, object database)

    @cython.locals(
        size=Py_ssize_t, at=Py_ssize_t, start=Py_ssize_t, ordinal=cython.ulonglong, bits=cython.ulonglong,
        shift=cython.int, op=cython.int,
    )
    cdef int _look(self, bytes value, Py_ssize_t begins) except -1


cdef Py_ssize_t _behind_number(bytes value, Py_ssize_t at) except -1
cdef Py_ssize_t _behind_there(bytes value, Py_ssize_t at) except -1
cdef Py_ssize_t _behind_optional(bytes value, Py_ssize_t at) except -1

@cython.locals(i=Py_ssize_t)
cdef Py_ssize_t _behind(bytes value, Py_ssize_t at, bytes expected) except -1

cdef Py_ssize_t _behind_sequence(bytes value, Py_ssize_t at) except -1

@cython.locals(start=Py_ssize_t, end=Py_ssize_t)
cdef Py_ssize_t _behind_digits(bytes value, Py_ssize_t at) except -1

@cython.locals(n=cython.ulonglong, bits=cython.ulonglong, shift=cython.int)
cdef long long _long(bytes value, Py_ssize_t at) except? 0
