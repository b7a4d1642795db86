cimport cython

cdef int _SECONDS, _ZERO, _DASH, _SPACE, _COLON, _POINT
cdef long long _DAY_US, _FIRST_US, _END_US
cdef long long _TO_1970, _FROM_MARCH, _ERA


@cython.locals(
    century=cython.int, of_century=cython.int, month=cython.int, day=cython.int, year=cython.int,
    hour=cython.longlong, minute=cython.longlong, second=cython.longlong, fraction=cython.longlong,
)
cpdef us_of(bytes data, Py_ssize_t start, Py_ssize_t end)

@cython.locals(size=Py_ssize_t)
cdef bint _is_shaped(bytes data, Py_ssize_t start, Py_ssize_t end) except -1

@cython.locals(tens=cython.int, ones=cython.int)
cdef int _two_digits(bytes data, Py_ssize_t at) except -2

@cython.locals(us=cython.int, at=Py_ssize_t, digit=cython.int)
cdef int _fraction_us(bytes data, Py_ssize_t point, Py_ssize_t end) except -2

cdef int _days_of_month(int year, int month) noexcept

@cython.locals(days=cython.longlong)
cdef long long _days(int year, int month, int day) noexcept

@cython.locals(
    seconds=cython.longlong, fraction=cython.longlong, days=cython.longlong, second=cython.longlong,
    era=cython.longlong, day=cython.longlong, year=cython.longlong, month=cython.longlong, hour=cython.longlong,
    minute=cython.longlong, text=str,
)
cpdef bytes text_of(long long us)
