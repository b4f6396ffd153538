"""Rows of words in long text files, and numbers written as text, a byte at a time.

A column of text is held as bytes [b, w] of one width, filled up with zeros. Text is uint8; words are divided by spaces,
tabs and carriage returns, rows by line feeds.
"""

from __future__ import annotations

import numpy as np
from numba import njit

DECIMALS, DIGITS = 6, 9  # written of numbers from 1 on, and significant ones of smaller numbers
WIDEST = 24  # bytes that a number takes at most
LARGEST, SMALLEST = 1e9, 1e-4  # numbers between are written here
POWERS = 10.0 ** np.arange(16)
TENS = np.array([float(f"1e{power}") for power in range(23)])


@njit(nogil=True, cache=True)
def measure_rows(text, begin, widths, found):
    """Count the rows from ``begin`` to the first blank line, and the bytes of the longest word of each column [c].

    found int64 [2]: becomes the number of rows, and where they end. The number is -1 where a row has another number of
    words than ``widths``, or text holds a quote, a #, or what is no printable ASCII.
    """
    size, columns = text.size, widths.size
    i, rows = begin, 0
    while i < size:
        line, words = i, 0
        while i < size and text[i] != 10:
            c = text[i]
            if c == 32 or c == 9 or c == 13:
                i += 1
                continue
            start = i
            while i < size:
                c = text[i]
                if c == 32 or c == 10 or c == 9 or c == 13:
                    break
                if c < 33 or c > 126 or c == 34 or c == 35 or c == 39:
                    found[0] = -1
                    return
                i += 1
            if words == columns:
                found[0] = -1
                return
            widths[words] = max(widths[words], i - start)
            words += 1
        if words == 0:
            i = line
            break
        if words != columns:
            found[0] = -1
            return
        rows += 1
        i += 1
    found[0], found[1] = rows, min(i, size)


@njit(nogil=True, cache=True)
def fill_columns(text, begin, rows, widths, bases, out):
    """Copy words into the columns, which lie one after the other in out: column c begins at bases[c]."""
    i = begin
    for row in range(rows):
        word = 0
        while i < text.size and text[i] != 10:
            c = text[i]
            if c == 32 or c == 9 or c == 13:
                i += 1
                continue
            at = bases[word] + row * widths[word]
            while i < text.size:
                c = text[i]
                if c == 32 or c == 10 or c == 9 or c == 13:
                    break
                out[at] = c
                at += 1
                i += 1
            word += 1
        i += 1


@njit(nogil=True, cache=True)
def read_numbers(text, values):
    """Read decimal numbers from text [b, w] into values [b]; returns how many words were left as NaN.

    Whole digits below 2^53 and powers of ten up to 10^22 are exact in float64, so that one division or product rounds
    to the nearest number (Clinger 1990, PLDI, 92). Words of another form or size are left.
    """
    left = 0
    for b in range(text.shape[0]):
        at, end, power, digits, whole = 0, text.shape[1], 0, 0, np.int64(0)
        negative = end > 0 and text[b, 0] == 45
        if negative or (end > 0 and text[b, 0] == 43):
            at = 1
        dot, good = False, True
        while at < end:
            c = text[b, at]
            if c == 46 and not dot:
                dot = True
            elif 48 <= c <= 57 and whole < (1 << 53) // 10 - 1:
                whole = 10 * whole + (c - 48)
                power -= dot
                digits += 1
            else:
                break
            at += 1
        if digits and at < end and (text[b, at] == 101 or text[b, at] == 69):
            at += 1
            minus = at < end and text[b, at] == 45
            if minus or (at < end and text[b, at] == 43):
                at += 1
            exponent, figures = 0, 0
            while at < end and 48 <= text[b, at] <= 57 and figures < 4:
                exponent = 10 * exponent + (text[b, at] - 48)
                figures += 1
                at += 1
            good = figures > 0
            power += -exponent if minus else exponent
        good = good and digits > 0 and -22 <= power <= 22 and (at == end or text[b, at] == 0)
        if not good:
            values[b] = np.nan
            left += 1
            continue
        value = whole / TENS[-power] if power < 0 else whole * TENS[power]
        values[b] = -value if negative else value
    return left


@njit(nogil=True, cache=True)
def squeeze(text, out):
    """Copy all bytes but zeros; returns their number."""
    count = 0
    for c in text:
        if c != 0:
            out[count] = c
            count += 1
    return count


@njit(nogil=True, cache=True)
def write_numbers(values, out):
    """Write numbers [b] into out [b, WIDEST], zero or LARGEST > |value| >= 1 with DECIMALS, smaller ones with DIGITS.

    Of the latter zeros at the end are left out. Returns how many are neither; their rows stay empty.
    """
    left = 0
    for b in range(values.size):
        value = abs(values[b])
        if not (value == 0.0 or SMALLEST <= value < LARGEST):
            left += 1
            continue
        decimals, whole, part = DECIMALS, int(value), 0
        if value == 0.0 or value >= 1.0:
            part = int(np.rint((value - whole) * POWERS[decimals]))
        else:
            decimals = DIGITS
            while value * POWERS[decimals - DIGITS + 1] < 1.0:
                decimals += 1
            part = int(np.rint(value * POWERS[decimals]))
            while part % 10 == 0 and decimals > 1:
                part //= 10
                decimals -= 1
        if part >= POWERS[decimals]:
            whole, part = whole + 1, 0
        at = 0
        if values[b] < 0.0:
            out[b, 0] = 45
            at = 1
        digits, rest = 1, whole
        while rest >= 10:
            rest //= 10
            digits += 1
        rest = whole
        for d in range(digits):
            out[b, at + digits - 1 - d] = 48 + rest % 10
            rest //= 10
        at += digits
        out[b, at] = 46
        for d in range(decimals):
            out[b, at + decimals - d] = 48 + part % 10
            part //= 10
    return left
