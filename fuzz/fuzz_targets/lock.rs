//! `images.lock`: what is read is written back as the same lock, and the same text ever after.
#![no_main]

use bundler::lock::Lock;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(lock) = Lock::parse(text) else { return };
    let written = lock.to_toml().expect("a lock can be written");
    let again = Lock::parse(&written).expect("what was written is a lock");
    assert_eq!(again, lock);
    assert_eq!(again.to_toml().expect("a lock can be written"), written);
    assert!(lock.same_content(&again));
});
