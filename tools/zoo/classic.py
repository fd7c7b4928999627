"""What scikit-learn trains, through skl2onnx: trees, machines, lines and what prepares their features. ZipMap is left out."""
import numpy as np
import skl2onnx
import skl2onnx.common._container as container
from sklearn import cluster, decomposition, ensemble, gaussian_process, linear_model, naive_bayes, neighbors, neural_network, pipeline, preprocessing, svm, tree
from skl2onnx.common.data_types import FloatTensorType

from common import Case, network


def make_node(op_type, inputs, outputs, _make=container.make_node, **attributes):
    """A list of ints that holds truths is refused by onnx's newer protobuf; skl2onnx makes them of histogram trees."""
    return _make(op_type, inputs, outputs, **{k: [int(x) if isinstance(x, (bool, np.bool_)) else x for x in v] if isinstance(v, list) else v for k, v in attributes.items()})


container.make_node = make_node


def data(seed, classes=3, rows=240, columns=8):
    """Clusters with room between them, so that no sample lies at a border of two answers."""
    r = np.random.default_rng(seed)
    y = r.integers(0, classes, rows)
    x = (r.standard_normal((classes, columns)) * 2.5)[y] + r.standard_normal((rows, columns)) * 0.7
    return x.astype(np.float32), y, (x @ r.standard_normal(columns) * 0.3 + np.sin(x[:, 0])).astype(np.float32)


def case(model, x, target, seed=1):
    model.fit(x, target)
    test = data(seed, rows=24)[0]
    options = {}
    if hasattr(model, "predict_proba") or hasattr(model, "decision_function"):
        options = {id(model): {"zipmap": False}}
    if isinstance(model, svm.LinearSVC):
        options = {}
    proto = skl2onnx.convert_sklearn(model, initial_types=[("x", FloatTensorType([None, x.shape[1]]))], target_opset={"": 17, "ai.onnx.ml": 3}, options=options)
    if hasattr(model, "predict_proba"):
        answers = [model.predict(test), model.predict_proba(test).astype(np.float32)]
    elif hasattr(model, "decision_function"):
        scores = model.decision_function(test).astype(np.float32)
        answers = [model.predict(test), scores if scores.ndim > 1 else None]
    elif hasattr(model, "predict") and len(proto.graph.output) == 1:
        answers = [model.predict(test).astype(np.float32).reshape(-1, 1)]
    elif hasattr(model, "predict"):
        answers = [model.predict(test), model.transform(test).astype(np.float32)]
    else:
        answers = [model.transform(test).astype(np.float32)]
    answers = [np.asarray(a) for a in answers if a is not None]
    return Case(proto, {"x": test}, [a.astype(np.int64) if a.dtype.kind == "i" else a for a in answers])


def classifier(name, family, model, classes=3):
    network(name, family)(lambda: case(model(), *data(7, classes)[:2]))


def regressor(name, family, model):
    network(name, family)(lambda: case(model(), *data(7)[::2]))


classifier("random_forest", "random forest", lambda: ensemble.RandomForestClassifier(20, max_depth=6, random_state=1))
regressor("random_forest_regressor", "random forest, regression", lambda: ensemble.RandomForestRegressor(20, max_depth=6, random_state=1))
classifier("extra_trees", "extra trees", lambda: ensemble.ExtraTreesClassifier(10, max_depth=6, random_state=1))
classifier("decision_tree", "decision tree", lambda: tree.DecisionTreeClassifier(max_depth=5, random_state=1))
classifier("gradient_boosting", "gradient boosting", lambda: ensemble.GradientBoostingClassifier(n_estimators=20, random_state=1))
regressor("gradient_boosting_regressor", "gradient boosting, regression", lambda: ensemble.GradientBoostingRegressor(n_estimators=30, random_state=1))
regressor("hist_gradient_boosting", "histogram gradient boosting", lambda: ensemble.HistGradientBoostingRegressor(max_iter=20, random_state=1))
classifier("adaboost", "AdaBoost", lambda: ensemble.AdaBoostClassifier(n_estimators=10, random_state=1))
classifier("svc_rbf", "support vector machine, RBF", lambda: svm.SVC(kernel="rbf"))
classifier("svc_poly", "support vector machine, polynomial", lambda: svm.SVC(kernel="poly", degree=3, coef0=1.0))
classifier("linear_svc", "linear support vector machine", lambda: svm.LinearSVC(random_state=1))
regressor("svr", "support vector regression", lambda: svm.SVR(kernel="rbf"))
regressor("linear_regression", "linear regression", lambda: linear_model.LinearRegression())
regressor("lasso", "lasso", lambda: linear_model.Lasso(alpha=0.05))
classifier("logistic_regression", "logistic regression", lambda: linear_model.LogisticRegression(max_iter=500))
classifier("naive_bayes", "Gaussian naive Bayes", lambda: naive_bayes.GaussianNB(var_smoothing=1.0))
classifier("nearest_neighbours", "nearest neighbours", lambda: neighbors.KNeighborsClassifier(3))
classifier("sklearn_mlp", "scikit-learn's MLP", lambda: neural_network.MLPClassifier((16,), max_iter=200, random_state=1))
classifier("scaled_pipeline", "pipeline: imputer-free scaling, PCA, logistic regression", lambda: pipeline.make_pipeline(preprocessing.StandardScaler(), decomposition.PCA(4), linear_model.LogisticRegression(max_iter=500)))
regressor("gaussian_process", "Gaussian process", lambda: gaussian_process.GaussianProcessRegressor(alpha=0.1))
network("kmeans", "k-means")(lambda: case(cluster.KMeans(4, n_init=2, random_state=1), data(7)[0], None))
network("pca", "principal components")(lambda: case(decomposition.PCA(3), data(7)[0], None))
