#include "model_store/schema.h"

#include <stddef.h>

#define ONE(n, t)               { .name = n, .type = SCHEMA_##t }
#define MANY(n, t)              { .name = n, .type = SCHEMA_##t, .rule = SCHEMA_REPEATED }
#define CHOICE(n, t)            { .name = n, .type = SCHEMA_##t, .choice = 1 }
#define NAMED(n, e)             { .name = n, .type = SCHEMA_ENUM, .names = e }
#define HAS(n, m)               { .name = n, .type = SCHEMA_MESSAGE, .message = &m }
#define HAS_MANY(n, m)          { .name = n, .type = SCHEMA_MESSAGE, .rule = SCHEMA_REPEATED, .message = &m }
#define HAS_CHOICE(n, m)        { .name = n, .type = SCHEMA_MESSAGE, .choice = 1, .message = &m }
#define MAP_TEXT(n)             { .name = n, .type = SCHEMA_STRING, .rule = SCHEMA_MAP }
#define MAP(n, m)               { .name = n, .type = SCHEMA_MESSAGE, .rule = SCHEMA_MAP, .message = &m }
#define MAP_BY_NUMBER(n, m)     { .name = n, .type = SCHEMA_MESSAGE, .rule = SCHEMA_MAP_BY_NUMBER, .message = &m }
#define MESSAGE(id, title, ...)                                                      \
    static const struct schema_field id##_fields[] = { __VA_ARGS__ };                \
    static const struct schema_message id = { title, id##_fields, sizeof id##_fields / sizeof *id##_fields }

static const char *const data_types[] = { "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16", "TYPE_INT32", "TYPE_INT64",
    "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16", NULL };
static const char *const formats[] = { "FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW", NULL };
static const char *const group_kinds[] = { "KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL", NULL };
static const char *const secondary_kinds[] = { "KIND_NVDLA", NULL };
static const char *const batch_input_kinds[] = { "BATCH_ELEMENT_COUNT", "BATCH_ACCUMULATED_ELEMENT_COUNT", "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", "BATCH_ITEM_SHAPE",
    "BATCH_ITEM_SHAPE_FLATTEN", NULL };
static const char *const batch_output_kinds[] = { "BATCH_SCATTER_WITH_INPUT_SHAPE", NULL };
static const char *const priorities[] = { "PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN", NULL };
static const char *const timeout_actions[] = { "REJECT", "DELAY", NULL };
static const char *const control_kinds[] = { "CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_CORRID", NULL };

MESSAGE(resource, "ModelRateLimiter.Resource", ONE("name", STRING), ONE("global", BOOL), ONE("count", UINT32));
MESSAGE(rate_limiter, "ModelRateLimiter", HAS_MANY("resources", resource), ONE("priority", UINT32));
MESSAGE(secondary_device, "ModelInstanceGroup.SecondaryDevice", NAMED("kind", secondary_kinds), ONE("device_id", INT64));
MESSAGE(instance_group, "ModelInstanceGroup", ONE("name", STRING), NAMED("kind", group_kinds), ONE("count", INT32), HAS("rate_limiter", rate_limiter), MANY("gpus", INT32),
        HAS_MANY("secondary_devices", secondary_device), MANY("profile", STRING), ONE("passive", BOOL), ONE("host_policy", STRING));

MESSAGE(reshape, "ModelTensorReshape", MANY("shape", INT64));
MESSAGE(model_input, "ModelInput", ONE("name", STRING), NAMED("data_type", data_types), NAMED("format", formats), MANY("dims", INT64), HAS("reshape", reshape), ONE("is_shape_tensor", BOOL),
        ONE("allow_ragged_batch", BOOL), ONE("optional", BOOL), ONE("is_non_linear_format_io", BOOL));
MESSAGE(model_output, "ModelOutput", ONE("name", STRING), NAMED("data_type", data_types), MANY("dims", INT64), HAS("reshape", reshape), ONE("label_filename", STRING), ONE("is_shape_tensor", BOOL),
        ONE("is_non_linear_format_io", BOOL));
MESSAGE(batch_input, "BatchInput", NAMED("kind", batch_input_kinds), MANY("target_name", STRING), NAMED("data_type", data_types), MANY("source_input", STRING));
MESSAGE(batch_output, "BatchOutput", MANY("target_name", STRING), NAMED("kind", batch_output_kinds), MANY("source_input", STRING));

MESSAGE(policy_latest, "ModelVersionPolicy.Latest", ONE("num_versions", UINT32));
static const struct schema_message policy_all = { "ModelVersionPolicy.All", NULL, 0 };
MESSAGE(policy_specific, "ModelVersionPolicy.Specific", MANY("versions", INT64));
MESSAGE(version_policy, "ModelVersionPolicy", HAS_CHOICE("latest", policy_latest), HAS_CHOICE("all", policy_all), HAS_CHOICE("specific", policy_specific));

MESSAGE(graph, "ModelOptimizationPolicy.Graph", ONE("level", INT32));
MESSAGE(cuda_shape, "ModelOptimizationPolicy.Cuda.GraphSpec.Shape", MANY("dim", INT64));
MESSAGE(cuda_bound, "ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound", ONE("batch_size", INT32), MAP("input", cuda_shape));
MESSAGE(cuda_graph, "ModelOptimizationPolicy.Cuda.GraphSpec", ONE("batch_size", INT32), MAP("input", cuda_shape), HAS("graph_lower_bound", cuda_bound));
MESSAGE(cuda, "ModelOptimizationPolicy.Cuda", ONE("graphs", BOOL), ONE("busy_wait_events", BOOL), HAS_MANY("graph_spec", cuda_graph), ONE("output_copy_stream", BOOL));
MESSAGE(accelerator, "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator", ONE("name", STRING), MAP_TEXT("parameters"));
MESSAGE(accelerators, "ModelOptimizationPolicy.ExecutionAccelerators", HAS_MANY("gpu_execution_accelerator", accelerator), HAS_MANY("cpu_execution_accelerator", accelerator));
MESSAGE(pinned_memory, "ModelOptimizationPolicy.PinnedMemoryBuffer", ONE("enable", BOOL));
MESSAGE(optimization, "ModelOptimizationPolicy", HAS("graph", graph), NAMED("priority", priorities), HAS("cuda", cuda), HAS("execution_accelerators", accelerators), HAS("input_pinned_memory", pinned_memory),
        HAS("output_pinned_memory", pinned_memory), ONE("gather_kernel_buffer_threshold", UINT32), ONE("eager_batching", BOOL));

MESSAGE(queue_policy, "ModelQueuePolicy", NAMED("timeout_action", timeout_actions), ONE("default_timeout_microseconds", UINT64), ONE("allow_timeout_override", BOOL), ONE("max_queue_size", UINT32));
MESSAGE(dynamic_batching, "ModelDynamicBatching", MANY("preferred_batch_size", INT32), ONE("max_queue_delay_microseconds", UINT64), ONE("preserve_ordering", BOOL), ONE("priority_levels", UINT64),
        ONE("default_priority_level", UINT64), HAS("default_queue_policy", queue_policy), MAP_BY_NUMBER("priority_queue_policy", queue_policy));

MESSAGE(control, "ModelSequenceBatching.Control", NAMED("kind", control_kinds), MANY("int32_false_true", INT32), MANY("fp32_false_true", FLOAT), MANY("bool_false_true", BOOL), NAMED("data_type", data_types));
MESSAGE(control_input, "ModelSequenceBatching.ControlInput", ONE("name", STRING), HAS_MANY("control", control));
MESSAGE(initial_state, "ModelSequenceBatching.InitialState", NAMED("data_type", data_types), MANY("dims", INT64), CHOICE("zero_data", BOOL), CHOICE("data_file", STRING), ONE("name", STRING));
MESSAGE(state, "ModelSequenceBatching.State", ONE("input_name", STRING), ONE("output_name", STRING), NAMED("data_type", data_types), MANY("dims", INT64), HAS_MANY("initial_state", initial_state),
        ONE("use_same_buffer_for_input_output", BOOL), ONE("use_growable_memory", BOOL));
MESSAGE(direct, "ModelSequenceBatching.StrategyDirect", ONE("max_queue_delay_microseconds", UINT64), ONE("minimum_slot_utilization", FLOAT));
MESSAGE(oldest, "ModelSequenceBatching.StrategyOldest", ONE("max_candidate_sequences", INT32), MANY("preferred_batch_size", INT32), ONE("max_queue_delay_microseconds", UINT64), ONE("preserve_ordering", BOOL));
MESSAGE(sequence_batching, "ModelSequenceBatching", HAS_CHOICE("direct", direct), HAS_CHOICE("oldest", oldest), ONE("max_sequence_idle_microseconds", UINT64), HAS_MANY("control_input", control_input),
        HAS_MANY("state", state), ONE("iterative_sequence", BOOL));

MESSAGE(step, "ModelEnsembling.Step", ONE("model_name", STRING), ONE("model_version", INT64), MAP_TEXT("input_map"), MAP_TEXT("output_map"), ONE("model_namespace", STRING));
MESSAGE(ensembling, "ModelEnsembling", HAS_MANY("step", step), ONE("max_inflight_responses", UINT32));

MESSAGE(parameter, "ModelParameter", ONE("string_value", STRING));
MESSAGE(warmup_input, "ModelWarmup.Input", NAMED("data_type", data_types), MANY("dims", INT64), CHOICE("zero_data", BOOL), CHOICE("random_data", BOOL), CHOICE("input_data_file", STRING));
MESSAGE(warmup, "ModelWarmup", ONE("name", STRING), ONE("batch_size", UINT32), MAP("inputs", warmup_input), ONE("count", UINT32));
MESSAGE(operations, "ModelOperations", MANY("op_library_filename", STRING));
MESSAGE(transaction_policy, "ModelTransactionPolicy", ONE("decoupled", BOOL));
MESSAGE(agent, "ModelRepositoryAgents.Agent", ONE("name", STRING), MAP_TEXT("parameters"));
MESSAGE(agents, "ModelRepositoryAgents", HAS_MANY("agents", agent));
MESSAGE(response_cache, "ModelResponseCache", ONE("enable", BOOL));
MESSAGE(metric_identifier, "ModelMetrics.MetricControl.MetricIdentifier", ONE("family", STRING));
MESSAGE(histogram_options, "ModelMetrics.MetricControl.HistogramOptions", MANY("buckets", DOUBLE));
MESSAGE(metric_control, "ModelMetrics.MetricControl", HAS("metric_identifier", metric_identifier), HAS_CHOICE("histogram_options", histogram_options));
MESSAGE(metrics, "ModelMetrics", HAS_MANY("metric_control", metric_control));

static const struct schema_field config_fields[] = {
    ONE("name", STRING), ONE("platform", STRING), ONE("backend", STRING), ONE("runtime", STRING), HAS("version_policy", version_policy), ONE("max_batch_size", INT32),
    HAS_MANY("input", model_input), HAS_MANY("output", model_output), HAS_MANY("batch_input", batch_input), HAS_MANY("batch_output", batch_output), HAS("optimization", optimization),
    HAS_CHOICE("dynamic_batching", dynamic_batching), HAS_CHOICE("sequence_batching", sequence_batching), HAS_CHOICE("ensemble_scheduling", ensembling), HAS_MANY("instance_group", instance_group),
    ONE("default_model_filename", STRING), MAP_TEXT("cc_model_filenames"), MAP_TEXT("metric_tags"), MAP("parameters", parameter), HAS_MANY("model_warmup", warmup), HAS("model_operations", operations),
    HAS("model_transaction_policy", transaction_policy), HAS("model_repository_agents", agents), HAS("response_cache", response_cache), HAS("model_metrics", metrics),
};
const struct schema_message schema_model_config = { "ModelConfig", config_fields, sizeof config_fields / sizeof *config_fields };
