/* A model of texts asked by tensors, as Triton's back ends for language models are: `text_input` is the prompt, one BYTES element; `sampling_parameters` a JSON
 * object; every other tensor of one element, and every parameter, a field by its name. */
#ifndef API_OIP_TEXT_H
#define API_OIP_TEXT_H

#include "base/json.h"
#include "engine/request.h"

/* The body that POST .../generate would have had, in the request's arena. */
enum status oip_text_question(struct json **out, struct request *r, struct err *err);

/* The tensor of an answer. */
#define OIP_TEXT_OUTPUT "text_output"

#endif
