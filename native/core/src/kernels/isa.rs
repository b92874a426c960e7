//! Which instructions the kernels use: detected once, or forced for tests.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// A family of kernels, in ascending order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// The naive oracle.
    Reference,
    /// Plain Rust that compilers vectorise (NEON on aarch64).
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL; bf16 weights are widened to f32.
    Avx512,
    /// The above with VDPBF16PS for bf16.
    Avx512Bf16,
    /// The above with AMX tiles for bf16.
    Amx,
}

impl Isa {
    /// All, in ascending order.
    pub const ALL: [Isa; 6] = [Isa::Reference, Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// The best that this machine supports, or what the environment variable `QUINTAIN_ISA` names.
    pub fn detect() -> Result<Isa> {
        match std::env::var("QUINTAIN_ISA") {
            Ok(name) if !name.is_empty() => name.parse::<Isa>()?.check(),
            _ => Ok(Isa::supported().last().unwrap_or(Isa::Portable)),
        }
    }

    /// Those that run here, in ascending order.
    pub fn supported() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_supported())
    }

    /// `self`, or an error if this machine cannot run it.
    pub fn check(self) -> Result<Isa> {
        if self.is_supported() {
            return Ok(self);
        }
        let names: Vec<String> = Isa::supported().map(|isa| isa.to_string()).collect();
        Err(Error::config("isa", format!("this machine does not support {self}; use one of {}", names.join(", "))))
    }

    /// Whether this machine (CPU and operating system) can run it.
    pub fn is_supported(self) -> bool {
        static SUPPORTED: OnceLock<[bool; 6]> = OnceLock::new();
        SUPPORTED.get_or_init(|| Isa::ALL.map(probe))[self as usize]
    }
}

#[cfg(target_arch = "x86_64")]
fn probe(isa: Isa) -> bool {
    use std::arch::is_x86_feature_detected as has;
    match isa {
        Isa::Reference | Isa::Portable => true,
        Isa::Avx2 => has!("avx2") && has!("fma"),
        Isa::Avx512 => probe(Isa::Avx2) && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl"),
        Isa::Avx512Bf16 => probe(Isa::Avx512) && has!("avx512bf16"),
        Isa::Amx => probe(Isa::Avx512Bf16) && request_tiles(),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn probe(isa: Isa) -> bool {
    matches!(isa, Isa::Reference | Isa::Portable)
}

/// Linux hands out the 8 KB of tile state only on request, once for the whole process.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tiles() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    let features = __cpuid_count(7, 0).edx;
    if features & AMX_BF16 == 0 || features & AMX_TILE == 0 {
        return false;
    }
    // SAFETY: arch_prctl with this code takes one integer and only changes what the kernel saves per thread.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn request_tiles() -> bool {
    false
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Reference => "reference",
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        })
    }
}

impl FromStr for Isa {
    type Err = Error;
    fn from_str(name: &str) -> Result<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.to_string() == name).ok_or_else(|| {
            Error::config("isa", format!("unknown {name:?}; use {}", Isa::ALL.map(|isa| isa.to_string()).join(", ")))
        })
    }
}
