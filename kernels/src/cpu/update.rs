//! Fused optimizer updates: one pass over parameters, gradients and state. `grad` holds sums over the
//! batch; each element is first scaled to the (clipped) mean and bounded by `max_value`.

use super::simd;

/// How a summed gradient becomes the one that is applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// 1 / total weight, times the clipping coefficient.
    pub factor: f32,
    /// Bound on each element's magnitude; infinite where there is none.
    pub max_value: f32,
}

#[inline(always)]
fn scaled(g: f32, scale: Scale) -> f32 {
    let g = g * scale.factor;
    // NaN passes both comparisons.
    let g = if g > scale.max_value { scale.max_value } else { g };
    if g < -scale.max_value { -scale.max_value } else { g }
}

/// Numbers of one Adam step, bias corrections included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamStep {
    /// Learning rate / (1 - beta1^t).
    pub rate: f32,
    /// 1 / sqrt(1 - beta2^t).
    pub inverse_correction: f32,
    pub beta1: f32,
    pub beta2: f32,
    /// 1 - beta1 and 1 - beta2, rounded once.
    pub fresh1: f32,
    pub fresh2: f32,
    pub epsilon: f32,
    /// Factor on the weight before the step: 1 - learning rate * decay (AdamW), else 1.
    pub shrink: f32,
    /// Added to the gradient per unit of weight (Adam with L2), else 0.
    pub l2: f32,
}

simd! {
    /// Adam (Kingma and Ba 2015, algorithm 1) and AdamW (Loshchilov and Hutter 2019, algorithm 2).
    pub(crate) fn adam(weights: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32], scale: Scale, s: AdamStep) {
        for (((w, g), m), v) in weights.iter_mut().zip(grad).zip(first).zip(second) {
            let g = s.l2.mul_add(*w, scaled(*g, scale));
            *m = s.beta1.mul_add(*m, s.fresh1 * g);
            *v = s.beta2.mul_add(*v, s.fresh2 * (g * g));
            let spread = (*v).sqrt().mul_add(s.inverse_correction, s.epsilon);
            *w = *w * s.shrink - s.rate * *m / spread;
        }
    }
}

/// Numbers of one SGD step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SgdStep {
    pub rate: f32,
    pub momentum: f32,
    /// Share of the fresh gradient added to the momentum buffer's step: 1 with Nesterov, else 0.
    pub nesterov: f32,
    pub l2: f32,
}

simd! {
    /// Momentum SGD as PyTorch defines it: buffer = momentum * buffer + g; the step is the buffer, with
    /// Nesterov g + momentum * buffer. The buffer begins at zero.
    pub(crate) fn sgd(weights: &mut [f32], grad: &[f32], buffer: &mut [f32], scale: Scale, s: SgdStep) {
        for ((w, g), b) in weights.iter_mut().zip(grad).zip(buffer) {
            let g = s.l2.mul_add(*w, scaled(*g, scale));
            *b = s.momentum.mul_add(*b, g);
            let look_ahead = s.momentum.mul_add(*b, g);
            let step = if s.nesterov > 0.0 { look_ahead } else { *b };
            *w -= s.rate * step;
        }
    }
}

/// Numbers of one LAMB step, bias corrections included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LambStep {
    /// 1 / (1 - beta1^t).
    pub first_correction: f32,
    /// 1 / sqrt(1 - beta2^t).
    pub inverse_correction: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub fresh1: f32,
    pub fresh2: f32,
    pub epsilon: f32,
    /// Added to the update per unit of weight.
    pub decay: f32,
}

/// The direction of a LAMB step before it is scaled: r of algorithm 2.
#[inline(always)]
fn lamb_direction(w: f32, m: f32, v: f32, s: LambStep) -> f32 {
    let spread = v.sqrt().mul_add(s.inverse_correction, s.epsilon);
    s.decay.mul_add(w, m * s.first_correction / spread)
}

simd! {
    /// The first pass of LAMB (You et al. 2020, algorithm 2): moments, and the sums of squares of the
    /// weights and of the direction in f64 over 16 lanes joined by halves.
    pub(crate) fn lamb_moments(
        weights: &[f32],
        grad: &[f32],
        first: &mut [f32],
        second: &mut [f32],
        scale: Scale,
        s: LambStep,
    ) -> [f64; 2] {
        const LANES: usize = 16;
        let n = weights.len();
        assert!(grad.len() == n && first.len() == n && second.len() == n, "invariant: one layout");
        let mut sums = [[0.0f64; LANES]; 2];
        let mut one = |i: usize, l: usize| {
            let g = scaled(grad[i], scale);
            let m = s.beta1.mul_add(first[i], s.fresh1 * g);
            let v = s.beta2.mul_add(second[i], s.fresh2 * (g * g));
            (first[i], second[i]) = (m, v);
            let (w, r) = (f64::from(weights[i]), f64::from(lamb_direction(weights[i], m, v, s)));
            sums[0][l] += w * w;
            sums[1][l] += r * r;
        };
        let whole = n / LANES * LANES;
        for start in (0..whole).step_by(LANES) {
            for l in 0..LANES {
                one(start + l, l);
            }
        }
        for i in whole..n {
            one(i, i - whole);
        }
        sums.map(|mut lanes| {
            let mut width = LANES / 2;
            while width > 0 {
                for l in 0..width {
                    lanes[l] += lanes[l + width];
                }
                width /= 2;
            }
            lanes[0]
        })
    }
}

simd! {
    /// The second pass of LAMB: a step of `rate` (times the trust ratio) along the direction.
    pub(crate) fn lamb_apply(weights: &mut [f32], first: &[f32], second: &[f32], rate: f32, s: LambStep) {
        for ((w, m), v) in weights.iter_mut().zip(first).zip(second) {
            *w -= rate * lamb_direction(*w, *m, *v, s);
        }
    }
}

simd! {
    /// average = decay * average + (1 - decay) * weights
    pub(crate) fn average(averages: &mut [f32], weights: &[f32], decay: f32) {
        for (a, w) in averages.iter_mut().zip(weights) {
            *a = (*w - *a).mul_add(1.0 - decay, *a);
        }
    }
}
