//! Random numbers (`BCryptGenRandom`): from the seed in Virtual mode, from the host otherwise.

use std::io::Read;

use crate::loader::probe;
use crate::nt::status::{STATUS_INVALID_PARAMETER, STATUS_SUCCESS, STATUS_UNSUCCESSFUL};
use crate::verifier::schedule::World;

const BCRYPT_USE_SYSTEM_PREFERRED_RNG: u32 = 2;
/// More at once is refused: nobody here needs it.
const MOST: u32 = 1 << 20;

fn random(world: &World, count: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    if world.is_virtual() {
        for chunk in bytes.chunks_mut(8) {
            let word = world.random().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    } else {
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    }
    Ok(bytes)
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "cng.sys";

    /// Fills a buffer with random bytes; only the system's generator, so only at PASSIVE_LEVEL.
    [max: PASSIVE, mark: Documented, source: "LEARN bcrypt/nf-bcrypt-bcryptgenrandom", fail: STATUS_UNSUCCESSFUL]
    fn BCryptGenRandom(thread, algorithm: usize, buffer: usize, length: u32, flags: u32) -> i32 {
        if algorithm != 0 || flags != BCRYPT_USE_SYSTEM_PREFERRED_RNG || length > MOST {
            return STATUS_INVALID_PARAMETER;
        }
        let Ok(bytes) = random(thread.machine().world(), length as usize) else { return STATUS_UNSUCCESSFUL };
        match probe::write_bytes(buffer, &bytes) {
            Ok(()) => STATUS_SUCCESS,
            Err(_) => thread.bad_pointer("pbBuffer", buffer),
        }
    }
}
