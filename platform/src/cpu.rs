//! Which virtualization extension the CPU has.

#![expect(unsafe_code, reason = "CPUID; calls the backends to turn the extension on")]

use crate::memory::Frames;
use anchorite_vcpu::{PageSource, Unavailable};
use core::arch::x86_64::__cpuid;

/// A virtualization extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// AMD's.
    Svm,
    /// Intel's.
    Vmx,
}

/// The extension that CPUID shows.
///
/// Source: APM vol. 3, E.4.2 "Function 8000_0001h" ECX bit 2; SDM vol. 2, CPUID
/// leaf 1 ECX bit 5.
pub fn extension() -> Option<Extension> {
    const EXTENDED: u32 = 0x8000_0001;
    // SAFETY: every 64-bit CPU has CPUID and these two leaves.
    let (basic, extended) = unsafe { (__cpuid(1), __cpuid(EXTENDED)) };
    if extended.ecx & (1 << 2) != 0 {
        Some(Extension::Svm)
    } else if basic.ecx & (1 << 5) != 0 {
        Some(Extension::Vmx)
    } else {
        None
    }
}

/// Turns a virtualization extension on, on this CPU.
///
/// `backend` is the `enable` of one of the two backends. What they demand of the
/// host holds here and is promised in one place: ring 0; Hermit pins a task to its
/// CPU; the target is soft-float, and neither Hermit nor the application executes
/// SYSCALL, SWAPGS or floating-point instructions or sets a debug register; NMIs
/// have a handler ([`crate::exceptions`]); [`Frames`] keeps the promise of a
/// [`PageSource`].
pub fn enable<T>(
    backend: unsafe fn(&mut dyn PageSource) -> Result<T, Unavailable>,
    frames: &mut Frames,
) -> Result<T, Unavailable> {
    // SAFETY: the conditions above are those that both backends document.
    unsafe { backend(frames) }
}
