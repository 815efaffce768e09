//! A capture of the driver's: opened, read until it is dropped, and ended by the driver when the device is closed.

use abi::capture::{Answer, Start};
use abi::ioctl::{READ_CAPTURE, START_CAPTURE};

use crate::driver::{Device, Failure};

/// An open one.
pub struct Capture {
    device: Box<dyn Device>,
    buffer: Vec<u8>,
}

impl Capture {
    /// Opens it. It is the device's own: what else is asked of the interface goes by another.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn start(device: Box<dyn Device>, start: &Start) -> Result<Self, Failure> {
        device.control(START_CAPTURE, &start.encode(), &mut [])?.status.check()?;
        Ok(Self { device, buffer: vec![0; start.answer_len()] })
    }

    /// What was seen since it was last read.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn read(&mut self) -> Result<Answer<'_>, Failure> {
        let answer = self.device.control(READ_CAPTURE, &[], &mut self.buffer)?;
        answer.status.check()?;
        let bytes = self.buffer.get(..answer.information).ok_or(Failure::Unknown)?;
        Answer::parse(bytes).ok_or(Failure::Unknown)
    }
}
