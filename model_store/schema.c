#include "model_store/schema_table.h"

ENUM(data_types, "DataType", "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16", "TYPE_INT32", "TYPE_INT64",
    "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16");
ENUM(formats, "ModelInput.Format", "FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW");
ENUM(group_kinds, "ModelInstanceGroup.Kind", "KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL");
ENUM(secondary_kinds, "ModelInstanceGroup.SecondaryDevice.SecondaryDeviceKind", "KIND_NVDLA");
ENUM(batch_input_kinds, "BatchInput.Kind", "BATCH_ELEMENT_COUNT", "BATCH_ACCUMULATED_ELEMENT_COUNT", "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", "BATCH_ITEM_SHAPE",
    "BATCH_ITEM_SHAPE_FLATTEN");
ENUM(batch_output_kinds, "BatchOutput.Kind", "BATCH_SCATTER_WITH_INPUT_SHAPE");
ENUM(priorities, "ModelOptimizationPolicy.ModelPriority", "PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN");
ENUM(timeout_actions, "ModelQueuePolicy.TimeoutAction", "REJECT", "DELAY");
ENUM(control_kinds, "ModelSequenceBatching.Control.Kind", "CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_CORRID");

MESSAGE(resource, "ModelRateLimiter.Resource", ONE(1, "name", STRING), ONE(2, "global", BOOL), ONE(3, "count", UINT32));
MESSAGE(rate_limiter, "ModelRateLimiter", HAS_MANY(1, "resources", resource), ONE(2, "priority", UINT32));
MESSAGE(secondary_device, "ModelInstanceGroup.SecondaryDevice", NAMED(1, "kind", secondary_kinds), ONE(2, "device_id", INT64));
MESSAGE(instance_group, "ModelInstanceGroup", ONE(1, "name", STRING), NAMED(4, "kind", group_kinds), ONE(2, "count", INT32), HAS(6, "rate_limiter", rate_limiter), MANY(3, "gpus", INT32),
        HAS_MANY(8, "secondary_devices", secondary_device), MANY(5, "profile", STRING), ONE(7, "passive", BOOL), ONE(9, "host_policy", STRING));

MESSAGE(reshape, "ModelTensorReshape", MANY(1, "shape", INT64));
MESSAGE(model_input, "ModelInput", ONE(1, "name", STRING), NAMED(2, "data_type", data_types), NAMED(3, "format", formats), MANY(4, "dims", INT64), HAS(5, "reshape", reshape), ONE(6, "is_shape_tensor", BOOL),
        ONE(7, "allow_ragged_batch", BOOL), ONE(8, "optional", BOOL), ONE(9, "is_non_linear_format_io", BOOL));
MESSAGE(model_output, "ModelOutput", ONE(1, "name", STRING), NAMED(2, "data_type", data_types), MANY(3, "dims", INT64), HAS(5, "reshape", reshape), ONE(4, "label_filename", STRING), ONE(6, "is_shape_tensor", BOOL),
        ONE(7, "is_non_linear_format_io", BOOL));
MESSAGE(batch_input, "BatchInput", NAMED(1, "kind", batch_input_kinds), MANY(2, "target_name", STRING), NAMED(3, "data_type", data_types), MANY(4, "source_input", STRING));
MESSAGE(batch_output, "BatchOutput", MANY(1, "target_name", STRING), NAMED(2, "kind", batch_output_kinds), MANY(3, "source_input", STRING));

MESSAGE(policy_latest, "ModelVersionPolicy.Latest", ONE(1, "num_versions", UINT32));
static const struct schema_message policy_all = { .name = "ModelVersionPolicy.All" };
MESSAGE(policy_specific, "ModelVersionPolicy.Specific", MANY(1, "versions", INT64));
MESSAGE(version_policy, "ModelVersionPolicy", HAS_CHOICE(1, "policy_choice", "latest", policy_latest), HAS_CHOICE(2, "policy_choice", "all", policy_all), HAS_CHOICE(3, "policy_choice", "specific", policy_specific));

MESSAGE(graph, "ModelOptimizationPolicy.Graph", ONE(1, "level", INT32));
MESSAGE(cuda_shape, "ModelOptimizationPolicy.Cuda.GraphSpec.Shape", MANY(1, "dim", INT64));
MESSAGE(cuda_bound, "ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound", ONE(1, "batch_size", INT32), MAP(2, "input", cuda_shape));
MESSAGE(cuda_graph, "ModelOptimizationPolicy.Cuda.GraphSpec", ONE(1, "batch_size", INT32), MAP(2, "input", cuda_shape), HAS(3, "graph_lower_bound", cuda_bound));
MESSAGE(cuda, "ModelOptimizationPolicy.Cuda", ONE(1, "graphs", BOOL), ONE(2, "busy_wait_events", BOOL), HAS_MANY(3, "graph_spec", cuda_graph), ONE(4, "output_copy_stream", BOOL));
MESSAGE(accelerator, "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator", ONE(1, "name", STRING), MAP_TEXT(2, "parameters"));
MESSAGE(accelerators, "ModelOptimizationPolicy.ExecutionAccelerators", HAS_MANY(1, "gpu_execution_accelerator", accelerator), HAS_MANY(2, "cpu_execution_accelerator", accelerator));
MESSAGE(pinned_memory, "ModelOptimizationPolicy.PinnedMemoryBuffer", ONE(1, "enable", BOOL));
MESSAGE(optimization, "ModelOptimizationPolicy", HAS(1, "graph", graph), NAMED(2, "priority", priorities), HAS(3, "cuda", cuda), HAS(4, "execution_accelerators", accelerators), HAS(5, "input_pinned_memory", pinned_memory),
        HAS(6, "output_pinned_memory", pinned_memory), ONE(7, "gather_kernel_buffer_threshold", UINT32), ONE(8, "eager_batching", BOOL));

MESSAGE(queue_policy, "ModelQueuePolicy", NAMED(1, "timeout_action", timeout_actions), ONE(2, "default_timeout_microseconds", UINT64), ONE(3, "allow_timeout_override", BOOL), ONE(4, "max_queue_size", UINT32));
MESSAGE(dynamic_batching, "ModelDynamicBatching", MANY(1, "preferred_batch_size", INT32), ONE(2, "max_queue_delay_microseconds", UINT64), ONE(3, "preserve_ordering", BOOL), ONE(4, "priority_levels", UINT64),
        ONE(5, "default_priority_level", UINT64), HAS(6, "default_queue_policy", queue_policy), MAP_BY_NUMBER(7, "priority_queue_policy", queue_policy));

MESSAGE(control, "ModelSequenceBatching.Control", NAMED(1, "kind", control_kinds), MANY(2, "int32_false_true", INT32), MANY(3, "fp32_false_true", FLOAT), MANY(5, "bool_false_true", BOOL), NAMED(4, "data_type", data_types));
MESSAGE(control_input, "ModelSequenceBatching.ControlInput", ONE(1, "name", STRING), HAS_MANY(2, "control", control));
MESSAGE(initial_state, "ModelSequenceBatching.InitialState", NAMED(1, "data_type", data_types), MANY(2, "dims", INT64), CHOICE(3, "state_data", "zero_data", BOOL), CHOICE(4, "state_data", "data_file", STRING), ONE(5, "name", STRING));
MESSAGE(state, "ModelSequenceBatching.State", ONE(1, "input_name", STRING), ONE(2, "output_name", STRING), NAMED(3, "data_type", data_types), MANY(4, "dims", INT64), HAS_MANY(5, "initial_state", initial_state),
        ONE(6, "use_same_buffer_for_input_output", BOOL), ONE(7, "use_growable_memory", BOOL));
MESSAGE(direct, "ModelSequenceBatching.StrategyDirect", ONE(1, "max_queue_delay_microseconds", UINT64), ONE(2, "minimum_slot_utilization", FLOAT));
MESSAGE(oldest, "ModelSequenceBatching.StrategyOldest", ONE(1, "max_candidate_sequences", INT32), MANY(2, "preferred_batch_size", INT32), ONE(3, "max_queue_delay_microseconds", UINT64), ONE(4, "preserve_ordering", BOOL));
MESSAGE(sequence_batching, "ModelSequenceBatching", HAS_CHOICE(3, "strategy_choice", "direct", direct), HAS_CHOICE(4, "strategy_choice", "oldest", oldest), ONE(1, "max_sequence_idle_microseconds", UINT64), HAS_MANY(2, "control_input", control_input),
        HAS_MANY(5, "state", state), ONE(6, "iterative_sequence", BOOL));

MESSAGE(step, "ModelEnsembling.Step", ONE(1, "model_name", STRING), ONE(2, "model_version", INT64), MAP_TEXT(3, "input_map"), MAP_TEXT(4, "output_map"), ONE(5, "model_namespace", STRING));
MESSAGE(ensembling, "ModelEnsembling", HAS_MANY(1, "step", step), ONE(2, "max_inflight_requests", UINT32));

MESSAGE(parameter, "ModelParameter", ONE(1, "string_value", STRING));
MESSAGE(warmup_input, "ModelWarmup.Input", NAMED(1, "data_type", data_types), MANY(2, "dims", INT64), CHOICE(3, "input_data_type", "zero_data", BOOL), CHOICE(4, "input_data_type", "random_data", BOOL), CHOICE(5, "input_data_type", "input_data_file", STRING));
MESSAGE(warmup, "ModelWarmup", ONE(1, "name", STRING), ONE(2, "batch_size", UINT32), MAP(3, "inputs", warmup_input), ONE(4, "count", UINT32));
MESSAGE(operations, "ModelOperations", MANY(1, "op_library_filename", STRING));
MESSAGE(transaction_policy, "ModelTransactionPolicy", ONE(1, "decoupled", BOOL));
MESSAGE(agent, "ModelRepositoryAgents.Agent", ONE(1, "name", STRING), MAP_TEXT(2, "parameters"));
MESSAGE(agents, "ModelRepositoryAgents", HAS_MANY(1, "agents", agent));
MESSAGE(response_cache, "ModelResponseCache", ONE(1, "enable", BOOL));
MESSAGE(metric_identifier, "ModelMetrics.MetricControl.MetricIdentifier", ONE(1, "family", STRING));
MESSAGE(histogram_options, "ModelMetrics.MetricControl.HistogramOptions", MANY(1, "buckets", DOUBLE));
MESSAGE(metric_control, "ModelMetrics.MetricControl", HAS(1, "metric_identifier", metric_identifier), HAS_CHOICE(2, "metric_options", "histogram_options", histogram_options));
MESSAGE(metrics, "ModelMetrics", HAS_MANY(1, "metric_control", metric_control));

static const struct schema_field config_fields[] = {
    ONE(1, "name", STRING), ONE(2, "platform", STRING), ONE(17, "backend", STRING), ONE(25, "runtime", STRING), HAS(3, "version_policy", version_policy), ONE(4, "max_batch_size", INT32),
    HAS_MANY(5, "input", model_input), HAS_MANY(6, "output", model_output), HAS_MANY(20, "batch_input", batch_input), HAS_MANY(21, "batch_output", batch_output), HAS(12, "optimization", optimization),
    HAS_CHOICE(11, "scheduling_choice", "dynamic_batching", dynamic_batching), HAS_CHOICE(13, "scheduling_choice", "sequence_batching", sequence_batching), HAS_CHOICE(15, "scheduling_choice", "ensemble_scheduling", ensembling), HAS_MANY(7, "instance_group", instance_group),
    ONE(8, "default_model_filename", STRING), MAP_TEXT(9, "cc_model_filenames"), MAP_TEXT(10, "metric_tags"), MAP(14, "parameters", parameter), HAS_MANY(16, "model_warmup", warmup), HAS(18, "model_operations", operations),
    HAS(19, "model_transaction_policy", transaction_policy), HAS(23, "model_repository_agents", agents), HAS(24, "response_cache", response_cache), HAS(26, "model_metrics", metrics),
};
const struct schema_message schema_model_config = { .name = "ModelConfig", .fields = config_fields, .count = sizeof config_fields / sizeof *config_fields };
