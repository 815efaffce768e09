//! The driver: builds the layers, joins them, and nothing else.
#![no_std]
