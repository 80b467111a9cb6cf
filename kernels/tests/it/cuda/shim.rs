//! That the shim sees what it is there for: barriers that not all reach, orders that matter, ends of buffers.

use kernels::cuda::{Launch, Source};

use super::simt::{Argument, ORDERS, Order, Shim};

fn run(text: &'static str, file: &'static str, order: Order, values: &mut [f32]) -> Option<Result<(), String>> {
    let shim = Shim::new(Source { file, text })?;
    let launch = Launch { grid: [2, 1, 1], block: [64, 1, 1], shared: 256 };
    Some(shim.run("k", launch, order, &mut [Argument::Floats(values)]))
}

#[test]
fn threads_of_a_block_exchange_and_warps_sum() {
    let text = "extern \"C\" __global__ void k(float* x) {\n\
                float* s = simt::shared<float>();\n\
                unsigned i = threadIdx.x;\n\
                s[i] = i;\n__syncthreads();\n\
                float v = s[63 - i];\n\
                for (unsigned d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);\n\
                x[blockIdx.x * 64 + i] = v;\n}\n";
    for order in ORDERS {
        let mut values = [0.0; 128];
        let Some(outcome) = run(text, "sum.cu", order, &mut values) else { return };
        assert_eq!(outcome, Ok(()));
        // Threads 0 to 31 add 63 + ... + 32, the others 31 + ... + 0.
        let expected = |i: usize| if i % 64 < 32 { 1520.0 } else { 496.0 };
        assert!(values.iter().enumerate().all(|(i, v)| *v == expected(i)), "{order:?}: {values:?}");
    }
}

#[test]
fn a_barrier_that_not_all_reach_is_an_error() {
    let cases = [
        ("if (threadIdx.x < 32) __syncthreads();", "ended.cu", "ended while others wait"),
        ("if (threadIdx.x < 32)\n__syncthreads();\nelse\n__syncthreads();", "apart.cu", "different barriers"),
        ("if (threadIdx.x != 3) __syncwarp();", "lane.cu", "lane that has ended"),
    ];
    for (body, file, what) in cases {
        let text: &'static str =
            format!("extern \"C\" __global__ void k(float* x) {{\n{body}\nx[0] = 1.0f;\n}}\n").leak();
        for order in ORDERS {
            let Some(outcome) = run(text, file, order, &mut [0.0; 128]) else { return };
            let said = outcome.expect_err("seen");
            assert!(said.contains(what) || said.contains("do not come"), "{file}, {order:?}: {said}");
        }
    }
}

#[test]
fn a_missing_barrier_changes_the_result_with_the_order() {
    let text = "extern \"C\" __global__ void k(float* x) {\n\
                float* s = simt::shared<float>();\n\
                s[threadIdx.x] = threadIdx.x;\n\
                x[blockIdx.x * 64 + threadIdx.x] = s[63 - threadIdx.x];\n}\n";
    let mut results = Vec::new();
    for order in ORDERS {
        let mut values = [0.0f32; 128];
        let Some(outcome) = run(text, "race.cu", order, &mut values) else { return };
        assert_eq!(outcome, Ok(()));
        results.push(values.map(f32::to_bits));
    }
    assert!(results[0] != results[1] && results[0] != results[2]);
}

#[test]
fn shared_memory_has_an_end() {
    let text = "extern \"C\" __global__ void k(float* x) {\n\
                simt::shared<float>()[64] = 1.0f;\nx[0] = 1.0f;\n}\n";
    let Some(outcome) = run(text, "beyond.cu", Order::Forward, &mut [0.0; 128]) else { return };
    assert!(outcome.expect_err("seen").contains("beyond its end"));
}
