//! The LSTM cell's loops (Hochreiter and Schmidhuber 1997, with forget gates: Gers et al. 2000), gates in
//! PyTorch's order: input, forget, candidate, output.

use super::math::{sigmoid, tanh};
use super::simd;

simd! {
    /// One row of a step. `z` holds the recurrent product; `x` the input's part; `c` the cell state, replaced.
    /// The gates after their activations replace `z`; the new hidden state goes to `h`.
    pub(crate) fn forward(z: &mut [f32], x: &[f32], bias: Option<&[f32]>, c: &mut [f32], h: &mut [f32]) {
        let n = c.len();
        assert!(z.len() == 4 * n && x.len() == 4 * n && h.len() == n, "invariant: four gates of one size");
        for (z, x) in z.iter_mut().zip(x) {
            *z += *x;
        }
        if let Some(bias) = bias {
            for (z, b) in z.iter_mut().zip(bias) {
                *z += *b;
            }
        }
        let (i, rest) = z.split_at_mut(n);
        let (f, rest) = rest.split_at_mut(n);
        let (g, o) = rest.split_at_mut(n);
        for v in i.iter_mut() {
            *v = sigmoid(*v);
        }
        for v in f.iter_mut() {
            *v = sigmoid(*v);
        }
        for v in g.iter_mut() {
            *v = tanh(*v);
        }
        for v in o.iter_mut() {
            *v = sigmoid(*v);
        }
        for (((c, i), f), g) in c.iter_mut().zip(i.iter()).zip(f.iter()).zip(g.iter()) {
            *c = f.mul_add(*c, *i * *g);
        }
        for ((h, c), o) in h.iter_mut().zip(c.iter()).zip(o.iter()) {
            *h = *o * tanh(*c);
        }
    }
}

simd! {
    /// One row of a step back. `dh` is the whole gradient of the hidden state; `dc` that of the cell state,
    /// replaced by the step before's. The gates' gradients before their activations go to `dz`.
    pub(crate) fn backward(gates: &[f32], c: &[f32], before: &[f32], dh: &[f32], dc: &mut [f32], dz: &mut [f32]) {
        let n = c.len();
        assert!(
            gates.len() == 4 * n && dz.len() == 4 * n && before.len() == n && dh.len() == n && dc.len() == n,
            "invariant: four gates of one size"
        );
        let (i, rest) = gates.split_at(n);
        let (f, rest) = rest.split_at(n);
        let (g, o) = rest.split_at(n);
        let (di, rest) = dz.split_at_mut(n);
        let (df, rest) = rest.split_at_mut(n);
        let (dg, d_o) = rest.split_at_mut(n);
        for k in 0..n {
            let t = tanh(c[k]);
            let grad = (dh[k] * o[k]).mul_add(1.0 - t * t, dc[k]);
            d_o[k] = dh[k] * t * (o[k] * (1.0 - o[k]));
            di[k] = grad * g[k] * (i[k] * (1.0 - i[k]));
            df[k] = grad * before[k] * (f[k] * (1.0 - f[k]));
            dg[k] = grad * i[k] * (1.0 - g[k] * g[k]);
            dc[k] = grad * f[k];
        }
    }
}
