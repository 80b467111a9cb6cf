//! Register-tiled micro-kernels of the matrix product, one per instruction set.
//!
//! Invariant: element (i, j) of a tile is one chain of fused multiply-adds over ascending p, begun at
//! zero: `acc = fma(a[i][p], b[p][j], acc)`. It does not depend on the tile's height or on the
//! instruction set, so no row's bits depend on its neighbors.
//!
//! The loops count with indices: an iterator adapter whose parts land in another codegen unit is called
//! in the innermost loop and the tile then lives in memory, at a tenth of the speed. They load by intrinsics and
//! count with wrapping arithmetic: the checks that a development build puts before each of the plain forms (the
//! addresses are proved once, by the callers) also drive the tile out of the registers.

use super::isa::Isa;

/// Columns of one panel of B.
pub(super) const PANEL: usize = 16;

/// What a tile does with what is in C.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    /// C = tile
    Set,
    /// C = C + tile
    Add,
}

/// One tile's operands. `a(i, p)` is at `a + i * a_row + p * a_step`; `b(p, j)` of panel q at
/// `b + q * b_panel + p * b_step + j`; `c(i, j)` of panel q at `c + i * c_row + q * PANEL + j`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub k: usize,
    pub a: *const f32,
    pub a_row: usize,
    pub a_step: usize,
    pub b: *const f32,
    pub b_panel: usize,
    pub b_step: usize,
    pub c: *mut f32,
    pub c_row: usize,
    pub store: Store,
}

/// The largest tile of an instruction set: (rows, panels).
pub(super) fn tile_of(isa: Isa) -> (usize, usize) {
    match isa {
        Isa::Portable | Isa::Avx2 => (6, 1),
        Isa::Avx512 => (12, 2),
    }
}

/// Largest tile of all, in elements.
pub(super) const MAX_TILE: usize = 12 * 2 * PANEL;

/// Computes one tile of `rows` x `panels` panels.
///
/// # Safety
/// Every address that [`Tile`] describes for `rows`, `panels` and `k` is valid; C is not aliased; the
/// host has `isa`; (`rows`, `panels`) is at least (1, 1) and at most [`tile_of`].
pub(super) unsafe fn run(isa: Isa, rows: usize, panels: usize, tile: &Tile) {
    macro_rules! by_rows {
        ($kernel:ident, $($n:literal),*) => {
            // SAFETY: the caller's promise.
            match rows { $($n => unsafe { $kernel::<$n>(tile) },)* _ => unreachable!("invariant: a tile of legal height") }
        };
    }
    match isa {
        Isa::Portable => by_rows!(portable, 1, 2, 3, 4, 5, 6),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => by_rows!(avx2, 1, 2, 3, 4, 5, 6),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if panels == 2 => by_rows!(avx512x2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => by_rows!(avx512x1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12),
        #[cfg(not(target_arch = "x86_64"))]
        _ => by_rows!(portable, 1, 2, 3, 4, 5, 6),
    }
}

unsafe fn portable<const M: usize>(t: &Tile) {
    let mut acc = [[0.0f32; PANEL]; M];
    for p in 0..t.k {
        // SAFETY: the addresses are valid by the contract of `run`.
        let b = unsafe { std::slice::from_raw_parts(t.b.add(p * t.b_step), PANEL) };
        for (i, row) in acc.iter_mut().enumerate() {
            // SAFETY: as above.
            let a = unsafe { *t.a.add(i * t.a_row + p * t.a_step) };
            for (sum, &b) in row.iter_mut().zip(b) {
                *sum = a.mul_add(b, *sum);
            }
        }
    }
    for (i, row) in acc.iter().enumerate() {
        // SAFETY: as above.
        let c = unsafe { std::slice::from_raw_parts_mut(t.c.add(i * t.c_row), PANEL) };
        for (c, &sum) in c.iter_mut().zip(row) {
            *c = if t.store == Store::Add { *c + sum } else { sum };
        }
    }
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _mm_load_ss, _mm256_add_ps, _mm256_broadcastss_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm512_add_ps, _mm512_broadcastss_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_setzero_ps,
    _mm512_storeu_ps,
};

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const M: usize>(t: &Tile) {
    let mut acc = [[_mm256_setzero_ps(); 2]; M];
    let (mut a, mut b) = (t.a, t.b);
    // SAFETY: every address is valid by the contract of `run`.
    unsafe {
        for _ in 0..t.k {
            let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.wrapping_add(8)));
            for i in 0..M {
                let a = _mm256_broadcastss_ps(_mm_load_ss(a.wrapping_add(i.wrapping_mul(t.a_row))));
                acc[i][0] = _mm256_fmadd_ps(a, b0, acc[i][0]);
                acc[i][1] = _mm256_fmadd_ps(a, b1, acc[i][1]);
            }
            a = a.wrapping_add(t.a_step);
            b = b.wrapping_add(t.b_step);
        }
        for i in 0..M {
            for half in 0..2 {
                let c = t.c.add(i * t.c_row + half * 8);
                let sum = acc[i][half];
                let value = if t.store == Store::Add { _mm256_add_ps(_mm256_loadu_ps(c), sum) } else { sum };
                _mm256_storeu_ps(c, value);
            }
        }
    }
}

macro_rules! avx512_kernel {
    ($name:ident, $panels:literal) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f")]
        unsafe fn $name<const M: usize>(t: &Tile) {
            let mut acc = [[_mm512_setzero_ps(); $panels]; M];
            let (mut a, mut b) = (t.a, t.b);
            // SAFETY: every address is valid by the contract of `run`.
            unsafe {
                for _ in 0..t.k {
                    let mut columns = [_mm512_setzero_ps(); $panels];
                    for q in 0..$panels {
                        columns[q] = _mm512_loadu_ps(b.wrapping_add(q.wrapping_mul(t.b_panel)));
                    }
                    for i in 0..M {
                        let a = _mm512_broadcastss_ps(_mm_load_ss(a.wrapping_add(i.wrapping_mul(t.a_row))));
                        for q in 0..$panels {
                            acc[i][q] = _mm512_fmadd_ps(a, columns[q], acc[i][q]);
                        }
                    }
                    a = a.wrapping_add(t.a_step);
                    b = b.wrapping_add(t.b_step);
                }
                for i in 0..M {
                    for q in 0..$panels {
                        let (c, sum) = (t.c.add(i * t.c_row + q * PANEL), acc[i][q]);
                        let value = if t.store == Store::Add { _mm512_add_ps(_mm512_loadu_ps(c), sum) } else { sum };
                        _mm512_storeu_ps(c, value);
                    }
                }
            }
        }
    };
}
avx512_kernel!(avx512x1, 1);
avx512_kernel!(avx512x2, 2);
