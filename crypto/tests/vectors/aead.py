#!/usr/bin/env python3
"""Writes aead.txt: ChaCha20-Poly1305 as Transport Data uses it, at its edges.

Written from RFC 8439 with integers of any size, so it shares nothing with the code under test. It
first checks itself against the RFC's example (section 2.8.2). Run: python3 aead.py > aead.txt
"""

import hashlib
import struct

P = (1 << 130) - 5
MASK = 0xFFFFFFFF


def chacha20_block(key, counter, nonce):
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
    start += struct.unpack("<8L", key) + (counter,) + struct.unpack("<3L", nonce)
    s = list(start)

    def quarter(a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & MASK
            s[z] ^= s[x]
            s[z] = (s[z] << n | s[z] >> 32 - n) & MASK

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<16L", *((a + b) & MASK for a, b in zip(s, start)))


def stream(key, nonce, length):
    blocks = (chacha20_block(key, 1 + i, nonce) for i in range((length + 63) // 64))
    return b"".join(blocks)[:length]


def one_time(key, nonce):
    block = chacha20_block(key, 0, nonce)
    r = int.from_bytes(block[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    return r, int.from_bytes(block[16:32], "little")


def pad16(data):
    return data + bytes(-len(data) % 16)


def tag(key, nonce, aad, ciphertext):
    r, s = one_time(key, nonce)
    data = pad16(aad) + pad16(ciphertext) + struct.pack("<QQ", len(aad), len(ciphertext))
    h = 0
    for i in range(0, len(data), 16):
        h = (h + int.from_bytes(data[i : i + 16] + b"\1", "little")) * r % P
    return ((h + s) % (1 << 128)).to_bytes(16, "little")


def seal(key, nonce, aad, text):
    ciphertext = bytes(a ^ b for a, b in zip(text, stream(key, nonce, len(text))))
    return ciphertext + tag(key, nonce, aad, ciphertext)


def self_check():
    key = bytes(range(0x80, 0xA0))
    nonce = bytes.fromhex("070000004041424344454647")
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for "
        b"the future, sunscreen would be it."
    )
    sealed = seal(key, nonce, bytes.fromhex("50515253c0c1c2c3c4c5c6c7"), text)
    assert sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691", sealed[-16:].hex()
    assert sealed[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"


def wg_nonce(counter):
    return bytes(4) + struct.pack("<Q", counter)


def show(why, key, counter, text):
    print(f"why     {why}")
    print(f"key     {key.hex()}")
    print(f"counter {counter}")
    print(f"text    {text.hex()}")
    print(f"sealed  {seal(key, wg_nonce(counter), b'', text).hex()}")
    print()


def derived(label, length):
    return hashlib.shake_256(label.encode()).digest(length)


def for_sum(target, start):
    """A key, a counter and a text whose sum before `s` is added is `target` modulo 2^130 - 5."""
    key = derived("sum", 32)
    for counter in range(start, start + 10000):
        r, _ = one_time(key, wg_nonce(counter))
        inverse = pow(r, -1, P)
        lengths = (16 << 64) | 1 << 128
        # target = ((c + 2^128) * r + lengths) * r
        block = ((target * inverse - lengths) * inverse - (1 << 128)) % P
        if block < 1 << 128:
            ciphertext = block.to_bytes(16, "little")
            return key, counter, bytes(
                a ^ b for a, b in zip(ciphertext, stream(key, wg_nonce(counter), 16))
            )
    raise AssertionError


def main():
    self_check()
    print("source: aead.py beside this file, which checks itself against RFC 8439, section 2.8.2")
    print()
    for length in (0, 1, 15, 16, 17, 31, 32, 63, 64, 65, 127, 128, 129, 255, 256, 959, 960, 961,
                   1023, 1024, 1025, 1408, 1420, 1472, 1473, 1500, 2049):
        show(f"length {length}", derived("key", 32), length, derived("text", length))
    for name, key in (("zero", bytes(32)), ("ones", b"\xff" * 32), ("top bits", b"\x80" * 32),
                      ("first bit", b"\1" + bytes(31)), ("last bit", bytes(31) + b"\x80")):
        show(f"key of {name}", key, 0, derived(name, 100))
    for counter in ((1 << 32) - 1, 1 << 32, (1 << 32) + 5, (1 << 63), (1 << 64) - (1 << 13) - 1,
                    (1 << 64) - 1):
        show(f"counter {counter}", derived("counter", 32), counter, derived("counter text", 80))
    key = derived("plain", 32)
    for name, byte in (("zero", 0), ("ones", 255)):
        for length in (16, 160, 1420):
            cipher = bytes([byte]) * length
            text = bytes(a ^ b for a, b in zip(cipher, stream(key, wg_nonce(7), length)))
            show(f"ciphertext of {name}, {length}", key, 7, text)
    for name, target in (("0", 0), ("1", 1), ("2^130 - 6", P - 1), ("2^128 - 1", (1 << 128) - 1),
                         ("2^128", 1 << 128), ("2^129", 1 << 129), ("2^44", 1 << 44),
                         ("2^88 - 1", (1 << 88) - 1), ("2^64 - 1", (1 << 64) - 1), ("4", 4), ("5", 5)):
        key, counter, text = for_sum(target, 1000)
        show(f"sum {name}", key, counter, text)


main()
