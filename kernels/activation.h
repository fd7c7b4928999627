/* What a kernel may do to each number of its result. */
#ifndef KERNELS_ACTIVATION_H
#define KERNELS_ACTIVATION_H

enum activation {
    ACT_NONE, ACT_RELU, ACT_CLIP /* alpha = low, beta = high */, ACT_LEAKY_RELU /* alpha */, ACT_SIGMOID, ACT_TANH, ACT_SILU /* x*sigmoid(x) */,
    ACT_HARD_SIGMOID /* alpha, beta: max(0,min(1,a*x+b)) */, ACT_HARD_SWISH, ACT_GELU /* erf */, ACT_GELU_TANH, ACT_ELU /* alpha */, ACT_SOFTPLUS, ACT_EXP, ACT_QUICK_GELU /* x*sigmoid(1.702x) */, ACT_ERF, ACT_COUNT
};
struct activation_spec { enum activation kind; float alpha, beta; };

#endif
