#include "api/rpcs.h"

#include "model_store/schema_table.h"

#define BARE(id, title, ...)                                                                                \
    static const struct schema_field id##_fields[] = { __VA_ARGS__ };                                       \
    static const struct schema_message id = { .name = title, .fields = id##_fields, .count = sizeof id##_fields / sizeof *id##_fields, .bare = true }
#define EMPTY(id, title) static const struct schema_message id = { .name = title }

/* ---- inference: the small messages ---- */
EMPTY(live_ask, "ServerLiveRequest");
EMPTY(ready_ask, "ServerReadyRequest");
EMPTY(server_ask, "ServerMetadataRequest");
MESSAGE(live, "ServerLiveResponse", ONE(1, "live", BOOL));
MESSAGE(ready, "ServerReadyResponse", ONE(1, "ready", BOOL));
MESSAGE(server, "ServerMetadataResponse", ONE(1, "name", STRING), ONE(2, "version", STRING), MANY(3, "extensions", STRING));
MESSAGE(model_ready_ask, "ModelReadyRequest", ONE(1, "name", STRING), ONE(2, "version", STRING));
MESSAGE(model_ready, "ModelReadyResponse", ONE(1, "ready", BOOL));
MESSAGE(metadata_ask, "ModelMetadataRequest", ONE(1, "name", STRING), ONE(2, "version", STRING));
MESSAGE(tensor_metadata, "ModelMetadataResponse.TensorMetadata", ONE(1, "name", STRING), ONE(2, "datatype", STRING), MANY(3, "shape", INT64));
MESSAGE(metadata, "ModelMetadataResponse", ONE(1, "name", STRING), MANY(2, "versions", STRING), ONE(3, "platform", STRING), HAS_MANY(4, "inputs", tensor_metadata), HAS_MANY(5, "outputs", tensor_metadata), MAP_TEXT(6, "properties"));
MESSAGE(config_ask, "ModelConfigRequest", ONE(1, "name", STRING), ONE(2, "version", STRING));
MESSAGE(config, "ModelConfigResponse", HAS(1, "config", schema_model_config));

MESSAGE(statistics_ask, "ModelStatisticsRequest", ONE(1, "name", STRING), ONE(2, "version", STRING));
MESSAGE(duration, "StatisticDuration", ONE(1, "count", UINT64), ONE(2, "ns", UINT64));
MESSAGE(infer_statistics, "InferStatistics", HAS(1, "success", duration), HAS(2, "fail", duration), HAS(3, "queue", duration), HAS(4, "compute_input", duration), HAS(5, "compute_infer", duration),
        HAS(6, "compute_output", duration), HAS(7, "cache_hit", duration), HAS(8, "cache_miss", duration));
MESSAGE(response_statistics, "InferResponseStatistics", HAS(1, "compute_infer", duration), HAS(2, "compute_output", duration), HAS(3, "success", duration), HAS(4, "fail", duration),
        HAS(5, "empty_response", duration), HAS(6, "cancel", duration));
MESSAGE(batch_statistics, "InferBatchStatistics", ONE(1, "batch_size", UINT64), HAS(2, "compute_input", duration), HAS(3, "compute_infer", duration), HAS(4, "compute_output", duration));
MESSAGE(memory_usage, "MemoryUsage", ONE(1, "type", STRING), ONE(2, "id", INT64), ONE(3, "byte_size", UINT64));
MESSAGE(model_statistics, "ModelStatistics", ONE(1, "name", STRING), ONE(2, "version", STRING), ONE(3, "last_inference", UINT64), ONE(4, "inference_count", UINT64), ONE(5, "execution_count", UINT64),
        HAS(6, "inference_stats", infer_statistics), HAS_MANY(7, "batch_stats", batch_statistics), HAS_MANY(8, "memory_usage", memory_usage), MAP(9, "response_stats", response_statistics));
MESSAGE(statistics, "ModelStatisticsResponse", HAS_MANY(1, "model_stats", model_statistics));

BARE(repository_parameter, "ModelRepositoryParameter", CHOICE(1, "parameter_choice", "bool_param", BOOL), CHOICE(2, "parameter_choice", "int64_param", INT64),
     CHOICE(3, "parameter_choice", "string_param", STRING), CHOICE(4, "parameter_choice", "bytes_param", BYTES));
MESSAGE(index_ask, "RepositoryIndexRequest", ONE(1, "repository_name", STRING), ONE(2, "ready", BOOL));
MESSAGE(index_row, "RepositoryIndexResponse.ModelIndex", ONE(1, "name", STRING), ONE(2, "version", STRING), ONE(3, "state", STRING), ONE(4, "reason", STRING));
MESSAGE(repository_index, "RepositoryIndexResponse", HAS_MANY(1, "models", index_row));
MESSAGE(load_ask, "RepositoryModelLoadRequest", ONE(1, "repository_name", STRING), ONE(2, "model_name", STRING), MAP(3, "parameters", repository_parameter));
EMPTY(load, "RepositoryModelLoadResponse");
MESSAGE(unload_ask, "RepositoryModelUnloadRequest", ONE(1, "repository_name", STRING), ONE(2, "model_name", STRING), MAP(3, "parameters", repository_parameter));
EMPTY(unload, "RepositoryModelUnloadResponse");

MESSAGE(system_status_ask, "SystemSharedMemoryStatusRequest", ONE(1, "name", STRING));
MESSAGE(system_region, "SystemSharedMemoryStatusResponse.RegionStatus", ONE(1, "name", STRING), ONE(2, "key", STRING), ONE(3, "offset", UINT64), ONE(4, "byte_size", UINT64));
MESSAGE(system_status, "SystemSharedMemoryStatusResponse", MAP(1, "regions", system_region));
MESSAGE(system_register_ask, "SystemSharedMemoryRegisterRequest", ONE(1, "name", STRING), ONE(2, "key", STRING), ONE(3, "offset", UINT64), ONE(4, "byte_size", UINT64));
EMPTY(system_register, "SystemSharedMemoryRegisterResponse");
MESSAGE(system_unregister_ask, "SystemSharedMemoryUnregisterRequest", ONE(1, "name", STRING));
EMPTY(system_unregister, "SystemSharedMemoryUnregisterResponse");
MESSAGE(cuda_status_ask, "CudaSharedMemoryStatusRequest", ONE(1, "name", STRING));
MESSAGE(cuda_region, "CudaSharedMemoryStatusResponse.RegionStatus", ONE(1, "name", STRING), ONE(2, "device_id", UINT64), ONE(3, "byte_size", UINT64));
MESSAGE(cuda_status, "CudaSharedMemoryStatusResponse", MAP(1, "regions", cuda_region));
MESSAGE(cuda_register_ask, "CudaSharedMemoryRegisterRequest", ONE(1, "name", STRING), ONE(2, "raw_handle", BYTES), ONE(3, "device_id", INT64), ONE(4, "byte_size", UINT64));
EMPTY(cuda_register, "CudaSharedMemoryRegisterResponse");
MESSAGE(cuda_unregister_ask, "CudaSharedMemoryUnregisterRequest", ONE(1, "name", STRING));
EMPTY(cuda_unregister, "CudaSharedMemoryUnregisterResponse");

BARE(trace_ask_value, "TraceSettingRequest.SettingValue", MANY(1, "value", STRING));
MESSAGE(trace_ask, "TraceSettingRequest", MAP(1, "settings", trace_ask_value), ONE(2, "model_name", STRING));
BARE(trace_value, "TraceSettingResponse.SettingValue", MANY(1, "value", STRING));
MESSAGE(trace, "TraceSettingResponse", MAP(1, "settings", trace_value));
#define LOG_VALUE CHOICE(1, "parameter_choice", "bool_param", BOOL), CHOICE(2, "parameter_choice", "uint32_param", UINT32), CHOICE(3, "parameter_choice", "string_param", STRING)
BARE(log_ask_value, "LogSettingsRequest.SettingValue", LOG_VALUE);
MESSAGE(log_ask, "LogSettingsRequest", MAP(1, "settings", log_ask_value));
BARE(log_value, "LogSettingsResponse.SettingValue", LOG_VALUE);
MESSAGE(log_settings, "LogSettingsResponse", MAP(1, "settings", log_value));

/* ---- inference: tensors; told by reflection only, oip_proto.c reads and writes them ---- */
BARE(infer_parameter, "InferParameter", CHOICE(1, "parameter_choice", "bool_param", BOOL), CHOICE(2, "parameter_choice", "int64_param", INT64), CHOICE(3, "parameter_choice", "string_param", STRING),
     CHOICE(4, "parameter_choice", "double_param", DOUBLE), CHOICE(5, "parameter_choice", "uint64_param", UINT64));
MESSAGE(contents, "InferTensorContents", MANY(1, "bool_contents", BOOL), MANY(2, "int_contents", INT32), MANY(3, "int64_contents", INT64), MANY(4, "uint_contents", UINT32), MANY(5, "uint64_contents", UINT64),
        MANY(6, "fp32_contents", FLOAT), MANY(7, "fp64_contents", DOUBLE), MANY(8, "bytes_contents", BYTES));
MESSAGE(input_tensor, "ModelInferRequest.InferInputTensor", ONE(1, "name", STRING), ONE(2, "datatype", STRING), MANY(3, "shape", INT64), MAP(4, "parameters", infer_parameter), HAS(5, "contents", contents));
MESSAGE(asked_tensor, "ModelInferRequest.InferRequestedOutputTensor", ONE(1, "name", STRING), MAP(2, "parameters", infer_parameter));
MESSAGE(infer_ask, "ModelInferRequest", ONE(1, "model_name", STRING), ONE(2, "model_version", STRING), ONE(3, "id", STRING), MAP(4, "parameters", infer_parameter), HAS_MANY(5, "inputs", input_tensor),
        HAS_MANY(6, "outputs", asked_tensor), MANY(7, "raw_input_contents", BYTES));
MESSAGE(output_tensor, "ModelInferResponse.InferOutputTensor", ONE(1, "name", STRING), ONE(2, "datatype", STRING), MANY(3, "shape", INT64), MAP(4, "parameters", infer_parameter), HAS(5, "contents", contents));
MESSAGE(infer, "ModelInferResponse", ONE(1, "model_name", STRING), ONE(2, "model_version", STRING), ONE(3, "id", STRING), MAP(4, "parameters", infer_parameter), HAS_MANY(5, "outputs", output_tensor),
        MANY(6, "raw_output_contents", BYTES));
MESSAGE(stream_infer, "ModelStreamInferResponse", ONE(1, "error_message", STRING), HAS(2, "infer_response", infer));

static const struct rpc_method inference_methods[] = {
    { "ServerLive",      RPC_SMALL, ROUTE_LIVE,        SCOPE_OPEN,  &live_ask,        &live,             NULL,    NULL, false, false },
    { "ServerReady",     RPC_SMALL, ROUTE_READY,       SCOPE_OPEN,  &ready_ask,       &ready,            NULL,    NULL, false, false },
    { "ModelReady",      RPC_SMALL, ROUTE_MODEL_READY, SCOPE_READ,  &model_ready_ask, &model_ready,      "name",  NULL, false, false },
    { "ServerMetadata",  RPC_SMALL, ROUTE_SERVER,      SCOPE_READ,  &server_ask,      &server,           NULL,    NULL, false, false },
    { "ModelMetadata",   RPC_SMALL, ROUTE_MODEL,       SCOPE_READ,  &metadata_ask,    &metadata,         "name",  NULL, false, false },
    { "ModelInfer",      RPC_INFER, ROUTE_INFER,       SCOPE_INFER, &infer_ask,       &infer,            NULL,    NULL, false, false },
    { "ModelStreamInfer", RPC_STREAM_INFER, ROUTE_INFER, SCOPE_INFER, &infer_ask,     &stream_infer,     NULL,    NULL, true,  true },
    { "ModelConfig",     RPC_SMALL, ROUTE_CONFIG,      SCOPE_READ,  &config_ask,      &config,           "name",  "config", false, false },
    { "ModelStatistics", RPC_SMALL, ROUTE_STATS,       SCOPE_READ,  &statistics_ask,  &statistics,       "name",  NULL, false, false },
    { "RepositoryIndex", RPC_SMALL, ROUTE_INDEX,       SCOPE_READ,  &index_ask,       &repository_index, NULL,    "models", false, false },
    { "RepositoryModelLoad",   RPC_SMALL, ROUTE_LOAD,   SCOPE_ADMIN, &load_ask,       &load,             "model_name", NULL, false, false },
    { "RepositoryModelUnload", RPC_SMALL, ROUTE_UNLOAD, SCOPE_ADMIN, &unload_ask,     &unload,           "model_name", NULL, false, false },
    { "SystemSharedMemoryStatus",     RPC_SMALL, ROUTE_SYSTEM_STATUS, SCOPE_READ,  &system_status_ask,     &system_status,     NULL, "regions", false, false },
    { "SystemSharedMemoryRegister",   RPC_SMALL, ROUTE_SYSTEM_REGISTER, SCOPE_ADMIN, &system_register_ask,   &system_register,   NULL, NULL, false, false },
    { "SystemSharedMemoryUnregister", RPC_SMALL, ROUTE_SYSTEM_UNREGISTER, SCOPE_ADMIN, &system_unregister_ask, &system_unregister, NULL, NULL, false, false },
    { "CudaSharedMemoryStatus",       RPC_SMALL, ROUTE_CUDA_MEMORY,   SCOPE_READ,  &cuda_status_ask,       &cuda_status,       NULL, NULL, false, false },
    { "CudaSharedMemoryRegister",     RPC_SMALL, ROUTE_CUDA_MEMORY,   SCOPE_ADMIN, &cuda_register_ask,     &cuda_register,     NULL, NULL, false, false },
    { "CudaSharedMemoryUnregister",   RPC_SMALL, ROUTE_CUDA_MEMORY,   SCOPE_ADMIN, &cuda_unregister_ask,   &cuda_unregister,   NULL, NULL, false, false },
    { "TraceSetting",    RPC_SMALL, ROUTE_TRACE,       SCOPE_READ,  &trace_ask,       &trace,            "model_name", "settings", false, false },
    { "LogSettings",     RPC_SMALL, ROUTE_LOGGING_SET, SCOPE_READ,  &log_ask,         &log_settings,     NULL,    "settings", false, false },
};
static const struct rpc_service inference_service = { "GRPCInferenceService", inference_methods, sizeof inference_methods / sizeof *inference_methods };

/* ---- grpc.health.v1 ---- */
ENUM(serving_status, "HealthCheckResponse.ServingStatus", "UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN");
MESSAGE(health_ask, "HealthCheckRequest", ONE(1, "service", STRING));
MESSAGE(health, "HealthCheckResponse", NAMED(1, "status", serving_status));
static const struct rpc_method health_methods[] = {
    { "Check", RPC_HEALTH_CHECK, ROUTE_READY, SCOPE_OPEN, &health_ask, &health, NULL, NULL, false, false },
    { "Watch", RPC_HEALTH_WATCH, ROUTE_READY, SCOPE_OPEN, &health_ask, &health, NULL, NULL, false, true },
};
static const struct rpc_service health_service = { "Health", health_methods, 2 };

/* ---- grpc.reflection: v1 and v1alpha are the same under two names ---- */
MESSAGE(extension_ask, "ExtensionRequest", ONE(1, "containing_type", STRING), ONE(2, "extension_number", INT32));
MESSAGE(reflection_ask, "ServerReflectionRequest", ONE(1, "host", STRING), CHOICE(3, "message_request", "file_by_filename", STRING), CHOICE(4, "message_request", "file_containing_symbol", STRING),
        HAS_CHOICE(5, "message_request", "file_containing_extension", extension_ask), CHOICE(6, "message_request", "all_extension_numbers_of_type", STRING),
        CHOICE(7, "message_request", "list_services", STRING));
MESSAGE(file_answer, "FileDescriptorResponse", MANY(1, "file_descriptor_proto", BYTES));
MESSAGE(extension_answer, "ExtensionNumberResponse", ONE(1, "base_type_name", STRING), MANY(2, "extension_number", INT32));
MESSAGE(service_answer, "ServiceResponse", ONE(1, "name", STRING));
MESSAGE(list_answer, "ListServiceResponse", HAS_MANY(1, "service", service_answer));
MESSAGE(error_answer, "ErrorResponse", ONE(1, "error_code", INT32), ONE(2, "error_message", STRING));
MESSAGE(reflection_answer, "ServerReflectionResponse", ONE(1, "valid_host", STRING), HAS(2, "original_request", reflection_ask),
        HAS_CHOICE(4, "message_response", "file_descriptor_response", file_answer), HAS_CHOICE(5, "message_response", "all_extension_numbers_response", extension_answer),
        HAS_CHOICE(6, "message_response", "list_services_response", list_answer), HAS_CHOICE(7, "message_response", "error_response", error_answer));
static const struct rpc_method reflection_methods[] = {
    { "ServerReflectionInfo", RPC_REFLECTION, ROUTE_SERVER, SCOPE_READ, &reflection_ask, &reflection_answer, NULL, NULL, true, true },
};
static const struct rpc_service reflection_service = { "ServerReflection", reflection_methods, 1 };

const struct rpc_file rpc_files[RPC_FILES] = {
    { "model_config.proto", "inference", NULL, &schema_model_config, NULL },
    { "grpc_service.proto", "inference", &inference_service, NULL, &rpc_files[0] },
    { "grpc/health/v1/health.proto", "grpc.health.v1", &health_service, NULL, NULL },
    { "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1", &reflection_service, NULL, NULL },
    { "grpc/reflection/v1alpha/reflection.proto", "grpc.reflection.v1alpha", &reflection_service, NULL, NULL },
};

/* Takes `text` off the front. */
static bool skip(const char **p, const char *end, const char *text)
{
    size_t n = strlen(text);
    if ((size_t)(end - *p) < n || memcmp(*p, text, n)) return false;
    *p += n;
    return true;
}

const struct rpc_method *rpc_find(const char *path, size_t length)
{
    for (int f = 0; f < RPC_FILES; f++) {
        const struct rpc_service *s = rpc_files[f].service;
        const char *p = path, *end = path + length;
        if (!s || !skip(&p, end, "/") || !skip(&p, end, rpc_files[f].package) || !skip(&p, end, ".") || !skip(&p, end, s->name) || !skip(&p, end, "/")) continue;
        for (int i = 0; i < s->count; i++)
            if (strlen(s->methods[i].name) == (size_t)(end - p) && !memcmp(s->methods[i].name, p, (size_t)(end - p))) return &s->methods[i];
    }
    return NULL;
}
