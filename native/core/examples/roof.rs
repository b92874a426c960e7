//! The machine's roofs, measured first, and how close the matrix products come to them.
//!
//! `cargo run --release --example roof [-- --json] [--threads N] [--isa NAME] [--quick]`

use quintain_core::kernels::{
    BlockKind, Isa, PackedBf16, PackedBlocks, PackedF32, Runtime, Weight, linear, linear_dw, linear_dx,
};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// SmolLM2-135M: `(outputs, inputs)` of its products.
const SHAPES: [(usize, usize); 5] = [(576, 576), (960, 576), (3072, 576), (576, 1536), (49_152, 576)];
const ROWS: [usize; 5] = [1, 8, 16, 32, 1280];
/// Kinds of blocks beside the dtypes: 4 and 8 bits.
const KINDS: [BlockKind; 2] = [BlockKind::Q4_1, BlockKind::Q8_0];

/// Rates of the whole machine: operations and bytes per second.
struct Roofs {
    f32: f64,
    bf16: f64,
    memory: f64,
}

/// The best of several timings, as each is disturbed only upwards.
fn best(budget: Duration, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 3 || start.elapsed() < budget {
        let begin = Instant::now();
        work();
        best = best.min(begin.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// Independent chains of one instruction in registers: `body(rounds)` returns the operations it did.
fn compute_roof(rt: &Runtime, body: impl Fn(u64) -> u64 + Sync) -> f64 {
    let rounds = 200_000;
    let each = body(1000) / 1000 * rounds;
    let seconds = best(Duration::from_millis(150), || {
        rt.parallel(rt.threads, |_| {
            black_box(body(rounds));
        })
    });
    (each * rt.threads as u64) as f64 / seconds
}

#[cfg(target_arch = "x86_64")]
mod chains {
    use std::arch::asm;

    macro_rules! chain {
        ($name:ident, $operations:expr, $setup:literal, [$($line:literal),+ $(,)?], $($clobber:tt)*) => {
            /// `rounds` of the instructions; returns the arithmetic operations done.
            pub fn $name(rounds: u64) -> u64 {
                // SAFETY: works on registers alone (and a constant); the caller checked the instruction set.
                unsafe {
                    asm!(
                        $setup, "2:", $($line),+, "dec {rounds}", "jnz 2b",
                        rounds = inout(reg) rounds => _, $($clobber)* options(nostack),
                    );
                }
                rounds * $operations
            }
        };
    }

    chain!(avx2, 10 * 8 * 2, "vzeroall", [
        "vfmadd231ps ymm0, ymm15, ymm14", "vfmadd231ps ymm1, ymm15, ymm14", "vfmadd231ps ymm2, ymm15, ymm14",
        "vfmadd231ps ymm3, ymm15, ymm14", "vfmadd231ps ymm4, ymm15, ymm14", "vfmadd231ps ymm5, ymm15, ymm14",
        "vfmadd231ps ymm6, ymm15, ymm14", "vfmadd231ps ymm7, ymm15, ymm14", "vfmadd231ps ymm8, ymm15, ymm14",
        "vfmadd231ps ymm9, ymm15, ymm14",
    ], out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
       out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm14") _, out("xmm15") _,);

    chain!(avx512, 10 * 16 * 2, "vzeroall", [
        "vfmadd231ps zmm0, zmm15, zmm14", "vfmadd231ps zmm1, zmm15, zmm14", "vfmadd231ps zmm2, zmm15, zmm14",
        "vfmadd231ps zmm3, zmm15, zmm14", "vfmadd231ps zmm4, zmm15, zmm14", "vfmadd231ps zmm5, zmm15, zmm14",
        "vfmadd231ps zmm6, zmm15, zmm14", "vfmadd231ps zmm7, zmm15, zmm14", "vfmadd231ps zmm8, zmm15, zmm14",
        "vfmadd231ps zmm9, zmm15, zmm14",
    ], out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
       out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm14") _, out("xmm15") _,);

    chain!(avx512bf16, 10 * 32 * 2, "vzeroall", [
        "vdpbf16ps zmm0, zmm15, zmm14", "vdpbf16ps zmm1, zmm15, zmm14", "vdpbf16ps zmm2, zmm15, zmm14",
        "vdpbf16ps zmm3, zmm15, zmm14", "vdpbf16ps zmm4, zmm15, zmm14", "vdpbf16ps zmm5, zmm15, zmm14",
        "vdpbf16ps zmm6, zmm15, zmm14", "vdpbf16ps zmm7, zmm15, zmm14", "vdpbf16ps zmm8, zmm15, zmm14",
        "vdpbf16ps zmm9, zmm15, zmm14",
    ], out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
       out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm14") _, out("xmm15") _,);

    /// Palette 1, eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Config([u8; 64]);
    static CONFIG: Config = Config({
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + tile * 2] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        bytes
    });

    /// As the others, on tiles.
    pub fn amx(rounds: u64) -> u64 {
        // SAFETY: tile state is this function's own from configuration to release; the caller checked the instruction set.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "tilezero tmm4", "tilezero tmm5",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm5", "tdpbf16ps tmm1, tmm4, tmm5", "tdpbf16ps tmm2, tmm4, tmm5",
                "tdpbf16ps tmm3, tmm4, tmm5",
                "dec {rounds}", "jnz 2b", "tilerelease",
                config = in(reg) &raw const CONFIG,
                rounds = inout(reg) rounds => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                options(nostack, readonly),
            );
        }
        rounds * 4 * 16 * 16 * 32 * 2
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod chains {
    /// `rounds` of forty independent chains of fused multiply-adds; returns the operations done.
    pub fn portable(rounds: u64) -> u64 {
        let mut sums = [0.0_f32; 40];
        for round in 0..rounds {
            let factor = std::hint::black_box(round as f32);
            sums.iter_mut().for_each(|sum| *sum = factor.mul_add(0.5, *sum));
        }
        std::hint::black_box(sums);
        rounds * 80
    }
}

#[cfg(target_arch = "x86_64")]
fn compute_roofs(rt: &Runtime) -> (f64, f64) {
    let isa = rt.isa;
    let fused = if Isa::Avx512.is_supported() { chains::avx512 } else { chains::avx2 };
    let f32 = compute_roof(rt, if isa >= Isa::Avx512 { fused } else { chains::avx2 });
    let bf16 = match isa {
        Isa::Amx => compute_roof(rt, chains::amx),
        Isa::Avx512Bf16 => compute_roof(rt, chains::avx512bf16),
        _ => f32,
    };
    (f32, bf16)
}

#[cfg(not(target_arch = "x86_64"))]
fn compute_roofs(rt: &Runtime) -> (f64, f64) {
    let f32 = compute_roof(rt, chains::portable);
    (f32, f32)
}

/// Sums 512 MB with all threads, fetching ahead as the kernels do.
fn memory_roof(rt: &Runtime) -> f64 {
    let data = vec![1_u64; 64 << 20];
    let part = data.len() / rt.threads;
    let seconds = best(Duration::from_millis(800), || {
        rt.parallel(rt.threads, |thread| {
            let mut sums = [0_u64; 32];
            for block in data[thread * part..(thread + 1) * part].chunks_exact(32) {
                for ahead in [4096, 4096 + 64, 4096 + 128, 4096 + 192] {
                    fetch(block.as_ptr().wrapping_byte_add(ahead));
                }
                sums.iter_mut().zip(block).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
            }
            black_box(sums);
        });
    });
    (data.len() * 8) as f64 / seconds
}

fn fetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

struct Figure {
    operation: &'static str,
    dtype: &'static str,
    n: usize,
    k: usize,
    m: usize,
    seconds: f64,
    /// Operations per second, bytes of weights per second, and the share of whichever roof is nearer.
    rate: f64,
    bytes: f64,
    share: f64,
}

/// One weight in every form; products of blocks are in bf16.
struct Forms {
    f32: PackedF32,
    bf16: PackedBf16,
    blocks: Vec<PackedBlocks>,
}

impl Forms {
    fn new(rows: &[f32], n: usize, k: usize) -> Forms {
        let f32 = PackedF32::from_rows(rows, n, k);
        let blocks = KINDS.map(|kind| {
            let mut blocks = PackedBlocks::new(k, vec![kind; n / 32], true);
            let mut bytes = vec![0; kind.row_bytes(k).expect("whole blocks")];
            for (row, values) in rows.chunks_exact(k).enumerate() {
                kind.encode(values, &mut bytes);
                blocks.set_row(row, &bytes);
            }
            blocks
        });
        Forms { bf16: PackedBf16::from_packed_f32(&f32), f32, blocks: blocks.to_vec() }
    }

    fn copy(&self) -> Forms {
        Forms { f32: self.f32.clone(), bf16: self.bf16.clone(), blocks: self.blocks.clone() }
    }

    fn names() -> impl Iterator<Item = &'static str> {
        ["f32", "bf16"].into_iter().chain(KINDS.map(BlockKind::name))
    }

    fn get(&self, form: usize) -> (Weight<'_>, usize) {
        match form {
            0 => (Weight::F32(&self.f32), size_of_val(&*self.f32.data)),
            1 => (Weight::Bf16(&self.bf16), size_of_val(&*self.bf16.data)),
            _ => (Weight::Blocks(&self.blocks[form - 2]), self.blocks[form - 2].bytes()),
        }
    }
}

fn measure(rt: &Runtime, roofs: &Roofs, quick: bool, mut report: impl FnMut(&Figure)) {
    for (n, k) in SHAPES {
        let rows: Vec<f32> = (0..n * k).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect();
        let forms = Forms::new(&rows, n, k);
        drop(rows);
        // As many copies as exceed the caches: decoding never finds a weight there.
        let copies = if n * k * 4 > 64 << 20 { 1 } else { (128 << 20) / (n * k * 4) };
        let many: Vec<Forms> = (0..copies).map(|_| forms.copy()).collect();
        let mut dw = PackedF32::zeros(n, k);
        for m in ROWS {
            // The head is used on a few hundred rows at once.
            let m = if n > 10_000 { m.min(256) } else { m };
            let x: Vec<f32> = (0..m * k).map(|i| ((i * 104_729) % 1000) as f32 / 1000.0 - 0.5).collect();
            let mut y = vec![0.01; m * n];
            let mut dx = vec![0.0; m * k];
            for (form, dtype) in Forms::names().enumerate() {
                for operation in ["forward", "dx", "dw"] {
                    if operation != "forward" && (m < 1280.min(if n > 10_000 { 256 } else { 1280 })) {
                        continue;
                    }
                    // Quantised weights are frozen.
                    if operation == "dw" && form > 1 {
                        continue;
                    }
                    let mut turn = 0;
                    let budget = Duration::from_millis(if quick { 20 } else { 150 });
                    let seconds = best(budget, || {
                        turn = (turn + 1) % copies;
                        let (w, _) = many[turn].get(form);
                        match operation {
                            "forward" => linear(rt, &x, m, k, w, &mut y, n, false),
                            "dx" => linear_dx(rt, &y, m, n, w, &mut dx, k, false),
                            _ => linear_dw(rt, &y, n, &x, k, m, &mut dw, form == 1),
                        }
                    });
                    let (rate, bytes) = ((2 * m * n * k) as f64 / seconds, forms.get(form).1 as f64 / seconds);
                    let share = (rate / if form == 0 { roofs.f32 } else { roofs.bf16 }).max(bytes / roofs.memory);
                    report(&Figure { operation, dtype, n, k, m, seconds, rate, bytes, share });
                }
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    let threads = value("--threads").map(|n| n.parse().expect("--threads takes a number"));
    let isa = value("--isa").map(|name| name.parse::<Isa>().unwrap_or_else(|error| panic!("{error}")));
    let rt = Runtime::new(threads, isa).unwrap_or_else(|error| panic!("{error}"));
    let (f32, bf16) = compute_roofs(&rt);
    let roofs = Roofs { f32, bf16, memory: memory_roof(&rt) };
    if has("--json") {
        let mut figures = Vec::new();
        measure(&rt, &roofs, has("--quick"), |f| {
            figures.push(format!(
                r#"{{"operation":"{}","dtype":"{}","n":{},"k":{},"m":{},"seconds":{:e},"flops":{:e},"weightBytesPerSecond":{:e},"share":{:.4}}}"#,
                f.operation, f.dtype, f.n, f.k, f.m, f.seconds, f.rate, f.bytes, f.share
            ));
        });
        println!(
            r#"{{"isa":"{}","threads":{},"roofs":{{"f32":{:e},"bf16":{:e},"memory":{:e}}},"products":[{}]}}"#,
            rt.isa,
            rt.threads,
            roofs.f32,
            roofs.bf16,
            roofs.memory,
            figures.join(",")
        );
        return;
    }
    println!("{} on {} threads", rt.isa, rt.threads);
    let giga = |rate: f64| rate / 1e9;
    println!(
        "roofs: f32 {:.0} GFLOP/s, bf16 {:.0} GFLOP/s, memory {:.1} GB/s",
        giga(roofs.f32),
        giga(roofs.bf16),
        giga(roofs.memory)
    );
    let bits = |form: usize, forms: &Forms| forms.get(form).1 as f64 * 8.0 / (32.0 * 1024.0);
    let forms = Forms::new(&vec![0.0; 32 * 1024], 32, 1024);
    let held: Vec<_> =
        Forms::names().enumerate().map(|(form, name)| format!("{name} {}", bits(form, &forms))).collect();
    println!("bits per weight: {}", held.join(", "));
    println!(
        "{:>8} {:>5} {:>6} {:>6} {:>5} {:>10} {:>10} {:>8} {:>6}",
        "", "", "n", "k", "m", "us", "GFLOP/s", "GB/s", "roof"
    );
    measure(&rt, &roofs, has("--quick"), |f| {
        println!(
            "{:>8} {:>5} {:>6} {:>6} {:>5} {:>10.1} {:>10.1} {:>8.1} {:>5.0}%",
            f.operation,
            f.dtype,
            f.n,
            f.k,
            f.m,
            f.seconds * 1e6,
            giga(f.rate),
            giga(f.bytes),
            f.share * 100.0
        );
    });
}
